"""What the annotation API takes and gives: strict, bounded, described for OpenAPI."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from pipelines.services.schemas import Line, PackedMapText, RequestBody, Seconds, Short

MAX_AHEAD = 16
TRIAGE_IMAGES = 12


class Skip(RequestBody):
    """Declining the leased image."""

    lease: Short
    reason: Line = ""


class Release(RequestBody):
    """Giving the leased image back."""

    lease: Short


class Renew(RequestBody):
    """Going on: the leases that must not end."""

    leases: list[Short] = Field(max_length=32)


class DraftBody(RequestBody):
    """An unfinished label map."""

    image: Short
    label_map: PackedMapText
    seconds: Seconds = 0.0


class CommentBody(RequestBody):
    """Something to say about an image."""

    image: Short
    text: Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]


class GoldBody(RequestBody):
    """Whose label of which image is the known answer."""

    image: Short
    author: Short


class Point(RequestBody):
    """A click, in pixels of the image, on the thing or beside it."""

    x: float = Field(ge=0, le=4096, allow_inf_nan=False)
    y: float = Field(ge=0, le=4096, allow_inf_nan=False)
    inside: bool = True


class Ask(RequestBody):
    """Clicks or a box (left, top, right, bottom) around the thing to segment."""

    image: Short
    points: list[Point] = Field(default=[], max_length=64)
    box: list[Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=4, max_length=4
    )


class TriageBody(RequestBody):
    """Of the leased images of a grid: which are clean, which must be drawn."""

    clean: list[Short] = Field(default=[], max_length=4 * TRIAGE_IMAGES)
    """Leases of the images without a flaw."""
    flawed: list[Short] = Field(default=[], max_length=4 * TRIAGE_IMAGES)
    """Leases of the images with one."""
    seconds: Seconds = 0.0


class ShownImage(BaseModel):
    """An image as the canvas needs it."""

    id: str
    height: int
    width: int
    prompt: str
    category: str | None
    url: str


class ShownMap(BaseModel):
    """Where the champion's artifact map is, and whose it is."""

    url: str
    detector: str


class ShownDraft(BaseModel):
    """What this person had drawn when they left."""

    label_map: str
    seconds: float
    saved: float


class Task(BaseModel):
    """A leased image, or an own answer to look at again."""

    lease: str | None
    expires: float | None
    image: ShownImage
    map: ShownMap | None
    classes: list[str]
    remaining: int
    done_today: int
    revision: int
    draft: ShownDraft | None = None
    answer: ShownDraft | None = None
    """The answer given earlier, when it is opened again."""
    note: str = ""
    """What a reviewer said when returning it."""
    comments: int = 0
    tools: list[Literal["assist"]] = []


class Submitted(BaseModel):
    revision: int


class Done(BaseModel):
    """The leases that were lost meanwhile; what was done under them later is another opinion."""

    lost: list[str] = []


class Said(BaseModel):
    id: str
    author: str
    text: str
    created: float


class Statistics(BaseModel):
    """A person's own numbers."""

    remaining: int
    done_today: int
    done_ever: int
    seconds_today: float
    median_seconds: float


class TriageImage(BaseModel):
    lease: str
    image: str
    url: str
    prompt: str


class TriageGrid(BaseModel):
    category: str
    images: list[TriageImage]
    waiting: int


class Triaged(BaseModel):
    clean: int
    queued: int
    lost: list[str]


class Segment(BaseModel):
    """A mask to accept, packed like a label map, with the model's own estimate of its quality."""

    label_map: str
    score: float
