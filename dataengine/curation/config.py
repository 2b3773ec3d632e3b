"""Settings of curation: hard categories, mining, questions to a VQA model, prompts (torch-free)."""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from dataengine.config import Config, Location
from dataengine.curation.questions import select_questions
from dataengine.errors import ConfigRefused
from dataengine.statistics import Correction


class HardCategoryConfig(Config):
    """When a category counts as hard (DiffDoctor)."""

    minimum: int = Field(default=20, ge=2)
    """Images that a category needs before it is judged."""

    margin: float = Field(default=0.05, ge=0, le=1)
    """Smallest excess over the other categories' median that counts, in units of confidence of a detector
    that flags from 0.5; in proportion for one that flags from elsewhere."""

    floor: float = Field(default=0.25, ge=0, le=1)
    """Mean of the highest confidences below which no category is hard, however low the others are; in
    proportion as `margin`."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided significance level of the bootstrap bound of the excess."""

    resamples: int = Field(default=2000, ge=200)
    """Number of bootstrap resamples."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the bootstrap."""

    correction: Correction = "none"
    """Correction of `level` for multiple comparisons: none, Holm, or Benjamini-Hochberg."""


class MiningConfig(Config):
    """Selection of the images to annotate (DiffDoctor)."""

    model_config = ConfigDict(serialize_by_alias=True)

    budget: int = Field(default=300, ge=1)
    """Number of images to select."""

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Highest confidence from which an image is a hard case; null for the detector's operating point."""

    explore: float = Field(default=0.1, ge=0, le=1)
    """Share of the budget sampled at random below the threshold, to find what the detector misses."""

    confidence: float = Field(default=1.0, ge=0)
    """Weight of the highest confidence in an image's score."""

    uncertainty: float = Field(default=1.0, ge=0)
    """Weight of the map's own uncertainty (quadratic entropy, 4p(1 − p)), ranked over the candidates."""

    variance: float = Field(default=0.0, ge=0)
    """Weight of how much the map changes when the image is mirrored or shrunk, ranked over the candidates.
    Costs two more predictions per image; 0 skips them."""

    disagreement: float = Field(default=0.0, ge=0)
    """Weight of the mean difference to a second detector's map, ranked over the candidates. Costs one more
    prediction per image; 0 skips it."""

    second_detector: str = Field(
        default="", validation_alias=AliasChoices("second_detector", "rival"), serialization_alias="rival"
    )
    """Id of the second detector; empty selects the newest one that is not the champion. Stored, and read,
    under its former name `rival`, so that a worker of an older version reads the recipes of this one."""

    diversity: float = Field(default=1.0, ge=0)
    """Weight of the distance to the images selected so far, ranked over the candidates."""

    features: Literal["thumbnail", "encoder"] = "thumbnail"
    """Features for distances: colours of a small thumbnail, or the champion's encoder."""

    near: float = Field(default=0.004, ge=0, le=1)
    """Mean colour difference of two thumbnails, as a share of the full range, below which only the
    higher-scored image is selected; 0 keeps both."""

    shares: dict[str, float] = Field(default={})
    """Relative shares of the budget by category; 1 for categories not listed, so the default is an even
    split."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the share sampled at random."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if any(share < 0 for share in self.shares.values()):
            raise ValueError(f"shares {self.shares} must not be negative")
        return self


class EndpointConfig(Config):
    """Timeouts and retries of an OpenAI-compatible endpoint."""

    timeout_seconds: float = Field(default=60.0, gt=0)
    """Timeout of one request, in seconds."""

    attempts: int = Field(default=3, ge=1)
    """Attempts per answer before the endpoint counts as unavailable."""

    patience_seconds: float = Field(default=300.0, ge=0)
    """Longest wait between the attempts for one answer, in seconds in total. A busy endpoint's Retry-After is
    followed up to it."""


class VqaConfig(Config):
    """The question to a VQA model, and the mapping of its answers to categories."""

    question: str = "What is the main subject of this image? Answer with exactly one of: {categories}."
    """The question; {categories} is filled in. Classic VQA models (ViLT, BLIP) need a short one."""

    categories: tuple[str, ...] = Field(
        default=("hand", "face", "person", "word", "animal", "object", "scene")
    )
    """The categories that an answer can name."""

    answers: dict[str, str] = Field(default={})
    """Synonyms in answers and the category of each, for example "fingers": "hand"."""

    new_tokens: int = Field(default=12, ge=1)
    """Longest answer in tokens."""

    endpoint: EndpointConfig = EndpointConfig()
    """Timeouts and retries of an endpoint."""

    @property
    def question_text(self) -> str:
        """The question with the categories filled in."""
        return self.question.replace("{categories}", ", ".join(self.categories))

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [category.strip().lower() for category in self.categories]
        if len(names) < 2 or "" in names or len(set(names)) < len(names):
            raise ValueError(f"categories {self.categories} must be two or more distinct, non-empty names")
        unknown = set(self.answers.values()) - set(self.categories)
        if unknown or any(not word.strip() for word in self.answers):
            raise ValueError(f"answers {self.answers} must map words to categories among {self.categories}")
        return self


class QuestionConfig(Config):
    """A yes/no question to a vision model, as a detector of whole images (ASCED, Sec. 4.2)."""

    model: Annotated[str, Location(kind="vqa")] = Field(min_length=1)
    """Folder or hub id of a VQA model, or the URL of an OpenAI-compatible endpoint with "#" and the model's
    name."""

    number: int = Field(default=5, ge=1, le=50)
    """The question, by its number in the paper, where 5 was the best; `clinic ask` ranks the questions on
    labelled images."""

    @field_validator("number")
    @classmethod
    def _known(cls, number: int) -> int:
        try:
            select_questions((number,))
        except ConfigRefused as error:
            raise ValueError(str(error)) from None
        return number


WRITTEN_BOXES = {
    "pixels": "[x1, y1, x2, y2] in pixels of the image",
    "pixels-yx": "[y1, x1, y2, x2] in pixels of the image",
    "0-1": "[x1, y1, x2, y2] as shares of the image's width and height, from 0 to 1",
    "0-1-yx": "[y1, x1, y2, x2] as shares of the image's height and width, from 0 to 1",
    "0-1000": "[x1, y1, x2, y2] on a grid of 0 to 1000 over the whole image",
    "0-1000-yx": "[y1, x1, y2, x2] on a grid of 0 to 1000 over the whole image",
}
"""How a request describes each of `dataengine.defects.COORDINATES`."""


class BoxesConfig(Config):
    """A vision-language model that answers boxes, as a detector (SDG): its map is their importance."""

    model: Annotated[str, Location(kind="vqa")] = Field(min_length=1)
    """URL of an OpenAI-compatible endpoint with "#" and the model's name."""

    coordinates: Literal["pixels", "pixels-yx", "0-1", "0-1-yx", "0-1000", "0-1000-yx"] = "0-1000"
    """What the numbers of its boxes mean: pixels, shares of the image, or thousandths of it (Qwen3-VL and the
    published SDG detector: 0-1000); -yx for the order top, left, bottom, right (Gemini)."""

    request: str = (
        "Find the visual artifacts of this generated image: malformed hands, faces or limbs, extra or "
        "missing parts, warped geometry, melted or smeared texture, garbled text. Answer with a JSON list "
        'alone, one object for each: {"bbox": […], "type": "artifact", "reason": "…", "importance": …}. '
        "bbox is {coordinates}; reason says in one sentence what is broken; importance is a whole number "
        "from 1 (hardly visible) to 100 (ruins the image). If nothing is broken, answer []."
    )
    """The request to the model; {coordinates} is filled in."""

    ignored: tuple[str, ...] = ("misalignment",)
    """Types of boxes that are no artifacts, such as what differs from the prompt."""

    new_tokens: int = Field(default=4096, ge=16)
    """Longest answer in tokens, the model's thoughts included."""

    endpoint: EndpointConfig = EndpointConfig(timeout_seconds=180)
    """Timeouts and retries of the endpoint."""

    @property
    def request_text(self) -> str:
        """The request with the coordinates filled in; other braces stay as they are."""
        return self.request.replace("{coordinates}", WRITTEN_BOXES[self.coordinates])

    @field_validator("model")
    @classmethod
    def _endpoint(cls, model: str) -> str:
        if not model.startswith(("http://", "https://")):
            raise ValueError(
                f"{model!r} is no endpoint; boxes come from one: write http://HOST:PORT/v1#MODEL"
            )
        return model


class PromptWriterConfig(Config):
    """Prompt writing by a language model."""

    request: str = (
        "Write {n} different prompts for a text-to-image model. Each prompt shows: {category}. "
        "Vary subject, action, setting, viewpoint and style. One prompt per line, no numbering, no comments."
    )
    """The request to the model; {n} and {category} are filled in."""

    per_request: int = Field(default=10, ge=1)
    """Prompts per request."""

    attempts: int = Field(default=8, ge=1)
    """Consecutive requests without a new prompt before giving up."""

    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""

    new_tokens: int = Field(default=40, ge=4)
    """Longest answer in tokens, per requested prompt."""

    words: tuple[int, int] = (3, 60)
    """Fewest and most words of an accepted prompt."""

    similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of words from which two prompts count as duplicates."""

    endpoint: EndpointConfig = EndpointConfig()
    """Timeouts and retries of an endpoint."""

    def request_text(self, category: str) -> str:
        """The request with both filled in; other braces stay as they are."""
        return self.request.replace("{n}", str(self.per_request)).replace("{category}", category)
