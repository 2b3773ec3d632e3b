"""Settings of the quality guard and of blind studies (torch-free)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Config

Limits = tuple[float, float]
Question = Literal["artifacts", "quality", "alignment", "safety"]
SideWords = Annotated[str, Field(max_length=200)]


class GuardConfig(Config):
    """Limits that stop a treatment before it collapses. Every limit is two-sided: (lowest, highest) accepted
    value.

    In the paper a scorer rose abnormally during collapse, so a better score alone does not rule out collapse.
    """

    every: int = Field(default=20, ge=1, le=1_000_000)
    """Updates between two measurements."""

    patience: int = Field(default=2, ge=1, le=10_000)
    """Consecutive breaches that stop the run."""

    prompts: int = Field(default=24, ge=1, le=10_000)
    """Number of fixed prompts, not used in training, for the guard's images."""

    seeds: int = Field(default=2, ge=2, le=1000)
    """Images per prompt; diversity is measured among them."""

    steps: int | None = Field(default=None, ge=1)
    """Denoising steps of the guard's images; null for those of the treatment, and of a generator that is
    distilled to few steps for its own number."""

    change: Limits = (0.0, 0.15)
    """Mean absolute difference to the untreated image of the same prompt and seed, images in [0, 1]."""

    detail: Limits = (0.8, 1.25)
    """Laplacian energy, as a ratio to the untreated images."""

    diversity: Limits = (0.9, 1.25)
    """Mean distance between images of one prompt, as a ratio to the untreated images."""

    attributes: Limits = (-0.03, 1.0)
    """Change of the share of the prompts' attributes that the images show."""

    scorers: Limits = (-0.15, 0.15)
    """Change of the mean of every preference scorer, in standard deviations of its untreated scores."""

    norm: Limits | None = None
    """Mean log ‖v‖/‖v_ref‖ of the prediction over that of the generator as given, over the steps of eight
    images (NormGuard); null does not measure it. Treatment by rewards was seen to raise norms by 5 to 15 %,
    so (-0.05, 0.05) is a start."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("change", "detail", "diversity", "attributes", "scorers", "norm"):
            limits = getattr(self, name)
            if limits is None:
                continue
            low, high = limits
            if not low < high:
                raise ValueError(
                    f"the limits of {name} are ({low}, {high}); the first must be below the second"
                )
        return self


class StudyDesign(Config):
    """The questions of a study, and the number of raters per pair."""

    questions: tuple[Question, ...] = ("artifacts", "quality")
    """What raters compare. DiffDoctor: artifacts and quality. Focus-N-Fix: artifacts, alignment, safety."""

    scale: Literal["winner", "score"] = "winner"
    """Scale of the answers: the better image or a tie, or −1, 0, +1 for each aspect."""

    raters_a_pair: int = Field(default=11, ge=1, le=99)
    """Number of raters per pair."""

    checks: int = Field(default=3, ge=0, le=20)
    """Attention checks per rater: pairs in which one image is visibly spoiled."""

    keep_from: float = Field(default=0.5, ge=0, le=1)
    """Share of the attention checks that a rater must pass for the votes to count."""

    margin: int = Field(default=3, ge=1, le=99)
    """Margin in votes by which one image must lead for a pair to improve or degrade; at most the raters per
    pair."""

    code: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")
    """Completion code that raters see after their last pair, for Prolific or Mechanical Turk; empty for
    none."""

    sides: tuple[SideWords, SideWords] = ("", "")
    """What tells the sides apart beside their generators, in words; set when the study opens."""

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if not self.questions or len(set(self.questions)) < len(self.questions):
            raise ValueError("a study needs one or more questions, without repetition")
        if self.checks and not {"artifacts", "quality"} & set(self.questions):
            raise ValueError(
                "attention checks need a question on artifacts or quality: add one, or set checks to 0"
            )
        return self
