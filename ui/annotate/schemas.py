"""Request and response bodies of the annotation API: strict, bounded, described for OpenAPI."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from pipelines.services.schemas import Line, PackedMapText, RegionsBody, RequestBody, Seconds, Short

MAX_AHEAD = 16
TRIAGE_IMAGES = 12


class Skip(RequestBody):
    """Declining the leased image."""

    lease: Short
    reason: Line = ""


class Release(RequestBody):
    """Returning the leased image."""

    lease: Short


class Renew(RequestBody):
    """The leases to extend."""

    leases: list[Short] = Field(max_length=32)


class DraftBody(RequestBody):
    """An unfinished label map."""

    image: Short
    label_map: PackedMapText
    regions: RegionsBody | None = None
    """Left out, those of the former draft stay."""
    seconds: Seconds = 0.0


class CommentBody(RequestBody):
    """A comment on an image."""

    image: Short
    text: Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]


class GoldBody(RequestBody):
    """Whose label of which image is the known answer."""

    image: Short
    author: Short


class Point(RequestBody):
    """A click in image pixels, on the object or outside of it."""

    x: float = Field(ge=0, le=4096, allow_inf_nan=False)
    y: float = Field(ge=0, le=4096, allow_inf_nan=False)
    inside: bool = True


class Ask(RequestBody):
    """Clicks or a box (left, top, right, bottom) around the object to segment, or a word for it."""

    image: Short
    points: list[Point] = Field(default=[], max_length=64)
    box: list[Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=4, max_length=4
    )
    word: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class TriageBody(RequestBody):
    """The leased images of a grid: which are clean, which are flawed."""

    clean: list[Short] = Field(default=[], max_length=4 * TRIAGE_IMAGES)
    """Leases of the images without a flaw."""
    flawed: list[Short] = Field(default=[], max_length=4 * TRIAGE_IMAGES)
    """Leases of the images with one."""
    seconds: Seconds = 0.0


class TriageUndo(RequestBody):
    """The leases of a batch to take back."""

    leases: list[Short] = Field(min_length=1, max_length=4 * TRIAGE_IMAGES)


class ShownImage(BaseModel):
    """An image as the canvas needs it."""

    id: str
    height: int
    width: int
    prompt: str
    category: str | None
    url: str


class ShownMap(BaseModel):
    """The URL of an artifact map, its detector's name and component threshold, and what to know where the
    detector was made for images of another kind."""

    url: str
    detector: str
    threshold: float
    """Confidence from which the first suggestions are shown: the detector's operating point."""
    note: str = ""


class ShownRegion(BaseModel):
    """What is said of one region: the pixels of class `value` in `box`."""

    value: int
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels, right and bottom excluded."""
    reason: str
    importance: int | None
    """1 to 100; null where nobody said."""


class ShownDraft(BaseModel):
    """A person's saved or submitted label map."""

    label_map: str
    regions: list[ShownRegion] = []
    seconds: float
    saved: float


class Task(BaseModel):
    """A leased image, or the person's earlier answer."""

    lease: str | None
    expires: float | None
    image: ShownImage
    map: ShownMap | None
    classes: list[str]
    offered: list[int]
    """The values of the classes that are not retired, in their order on the desk."""
    remaining: int
    done_today: int
    revision: int
    draft: ShownDraft | None = None
    answer: ShownDraft | None = None
    """The earlier answer, if the task reopens one."""
    note: str = ""
    """The reviewer's note on a returned label."""
    comments: int = 0
    tools: list[Literal["assist", "words"]] = []
    """"assist" where a segmenter is registered, "words" where it takes a word."""


class Submitted(BaseModel):
    revision: int


class Done(BaseModel):
    """The leases that were lost; answers submitted on them are stored as another opinion."""

    lost: list[str] = []


class CommentRow(BaseModel):
    """A stored comment."""

    id: str
    author: str
    text: str
    created: float


class Statistics(BaseModel):
    """A person's own statistics."""

    remaining: int
    done_today: int
    done_ever: int
    seconds_today: float
    median_seconds: float
    tour_due: bool
    """Whether this account has not finished the practice images yet."""


class TriageImage(BaseModel):
    lease: str
    image: str
    url: str
    prompt: str


class TriageGrid(BaseModel):
    category: str
    images: list[TriageImage]
    waiting: int
    seconds_each: float
    """Least time for which each image must be on the screen before the batch is confirmed."""


class Triaged(BaseModel):
    clean: int
    queued: int
    lost: list[str]


class Undone(BaseModel):
    """How many decisions were taken back, and the leases of those that stay."""

    undone: int
    kept: list[str]


class OwnAnswer(BaseModel):
    """One of the person's own answers, in a list."""

    image: str
    prompt: str
    category: str | None
    created: float
    seconds: float
    classes: list[int]
    """The classes that are drawn; none for a clean image."""
    state: Literal["unreviewed", "returned", "approved"]
    note: str
    editable: bool


class OwnAnswers(BaseModel):
    answers: list[OwnAnswer]
    after: str | None
    """What to ask for the next page with."""


class Segment(BaseModel):
    """A mask to accept, packed like a label map, with the model's own estimate of its quality."""

    label_map: str
    score: float
