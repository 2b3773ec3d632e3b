"""Settings of the quality guard and of blind studies (torch-free)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Config

Limits = tuple[float, float]
Question = Literal["artifacts", "quality", "alignment", "safety"]


class GuardConfig(Config):
    """When a treatment has gone too far. Every limit is two-sided: (lowest, highest) value that is still
    well.

    In the paper a scorer rose abnormally during collapse, so "better than before" is no proof of health.
    """

    every: int = Field(default=20, ge=1)
    """Updates between two looks."""

    patience: int = Field(default=2, ge=1)
    """Breaches in a row that stop the run."""

    prompts: int = Field(default=24, ge=1)
    """Fixed prompts, none of them trained on, that the guard's images are drawn from."""

    seeds: int = Field(default=2, ge=2)
    """Images for each of these prompts; diversity is measured among them."""

    change: Limits = (0.0, 0.15)
    """Mean absolute difference to the untreated image of the same prompt and seed, images in [0, 1]."""

    detail: Limits = (0.8, 1.25)
    """Laplacian energy, as a ratio to the untreated images."""

    diversity: Limits = (0.9, 1.25)
    """Mean distance between images of one prompt, as a ratio to the untreated images."""

    attributes: Limits = (-0.03, 1.0)
    """Change of the share of asked attributes that the images show."""

    scorers: Limits = (-0.15, 0.15)
    """Change of the mean of every preference scorer, in standard deviations of its untreated scores."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("change", "detail", "diversity", "attributes", "scorers"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"the limits of {name} are ({low}, {high}); the first must be the lower one")
        return self


class StudyDesign(Config):
    """What raters are asked, and of how many each pair is asked."""

    questions: tuple[Question, ...] = ("artifacts", "quality")
    """What raters compare. DiffDoctor: artifacts and quality. Focus-N-Fix: artifacts, alignment, safety."""

    scale: Literal["winner", "score"] = "winner"
    """How an answer is given: the better picture or a tie, or −1, 0, +1 for each aspect."""

    raters_a_pair: int = Field(default=11, ge=1, le=99)
    """Raters that every pair is shown to."""

    checks: int = Field(default=3, ge=0, le=20)
    """Attention checks for each rater: pairs in which one picture is spoiled for everybody to see."""

    keep_from: float = Field(default=0.5, ge=0, le=1)
    """Share of the checks that a rater must pass for the votes to count."""

    margin: int = Field(default=3, ge=1, le=99)
    """Votes by which one picture must lead for a pair to improve or degrade."""

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if not self.questions or len(set(self.questions)) < len(self.questions):
            raise ValueError("a study needs one or more questions, each of them once")
        if self.checks and not {"artifacts", "quality"} & set(self.questions):
            raise ValueError(
                "attention checks need the question on artifacts or quality: ask one, or set checks to 0"
            )
        return self
