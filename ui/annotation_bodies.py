"""What the annotation API takes and gives: strict, bounded, described for OpenAPI."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LABEL_MAP_CHARACTERS = 7_500_000
MAX_AHEAD = 16
TRIAGE_IMAGES = 12

# NUL, which a database refuses, is refused here, with a clear line.
Short = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
PackedMap = Annotated[str, Field(max_length=LABEL_MAP_CHARACTERS)]


class Body(BaseModel):
    """A request body: strict, bounded."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Answer(Body):
    """What a person says of an image: a label map, or that nothing is broken."""

    lease: Short | None = None
    """The lease under which the image was given out. None to change one's own earlier answer."""
    image: Short
    revision: int = Field(ge=0, le=1_000_000)
    """The revision that this one was drawn over, 0 for none."""
    clean: bool = False
    label_map: PackedMap | None = None
    """Base64 of zlib over runs (LEB128 length, class), in row order, at the image's own size."""
    seconds: Seconds = 0.0
    """Time on task without idle time."""
    note: Line = ""
    simulated: bool = False
    key: Short | None = None
    """Idempotency key: the same request under the same key counts once."""


class Skip(Body):
    """Declining the leased image."""

    lease: Short
    reason: Line = ""


class Release(Body):
    """Giving the leased image back."""

    lease: Short


class Renew(Body):
    """Going on: the leases that must not end."""

    leases: list[Short] = Field(max_length=32)


class DraftBody(Body):
    """An unfinished label map."""

    image: Short
    label_map: PackedMap
    seconds: Seconds = 0.0


class CommentBody(Body):
    """Something to say about an image."""

    image: Short
    text: Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]


class GoldBody(Body):
    """Whose label of which image is the known answer."""

    image: Short
    author: Short


class Point(Body):
    """A click, in pixels of the image, on the thing or beside it."""

    x: float = Field(ge=0, le=4096, allow_inf_nan=False)
    y: float = Field(ge=0, le=4096, allow_inf_nan=False)
    inside: bool = True


class Ask(Body):
    """Clicks or a box (left, top, right, bottom) around the thing to segment."""

    image: Short
    points: list[Point] = Field(default=[], max_length=64)
    box: list[Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=4, max_length=4
    )


class TriageBody(Body):
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


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, text in {
        400: "The request is malformed",
        401: "Sign in first",
        403: "The role does not allow it, or the CSRF header is missing",
        404: "No such thing",
        409: "Somebody else was first: a lost lease, a stale revision, a used key",
        413: "The body is too large",
        422: "Something in the request cannot be used; nothing was changed",
        503: "No inference service answers",
    }.items()
}


class Problem(BaseModel):
    """One clear sentence."""

    error: str
