"""What a server answers, as dataclasses. `raw` holds the whole answer, also what a newer server adds."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import ClinicError

Raw = Mapping[str, Any]
R = TypeVar("R", bound="Record")
Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps and values of one figure."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One answer of the server."""

    raw: Raw = field(default_factory=dict, repr=False, compare=False)


def read(kind: type[R], answer: Raw) -> R:
    """The record in an answer. Raises `ClinicError` for an answer that lacks a field without a default."""
    known = {one.name: answer[one.name] for one in fields(kind) if one.name != "raw" and one.name in answer}
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    if lost := sorted(needed - known.keys()):
        raise ClinicError(f"the server's answer has no {', '.join(lost)}; update the server")
    return kind(**known, raw=answer)


class ImageFilter(TypedDict, total=False):
    """A selection of images, in the words of the Curate page's address; all of them by default."""

    search: str
    """Words of the prompt: `hand "five fingers" -glove paint*`."""
    category: str
    generator: str
    """Id of the generator that drew them."""
    detector: str
    """Id of the detector that has predicted them, and whose confidence counts."""
    low: float
    """Lowest maximum confidence, from 0 to 1."""
    high: float
    label_class: int
    """Number of a label class that somebody marked."""
    state: str
    """unlabelled, waiting, unreviewed, approved, returned or refused."""
    split: str
    """train, validation or benchmark."""
    source: str
    round: str
    tag: str
    ids: Sequence[str]


def as_query(selection: ImageFilter) -> dict[str, Any]:
    """A selection as the server reads it."""
    query: dict[str, Any] = {name: value for name, value in selection.items() if value is not None}
    if "label_class" in query:
        query["class"] = query.pop("label_class")
    if "ids" in query:
        query["ids"] = list(query["ids"])
    return query


@dataclass(frozen=True, kw_only=True)
class Image(Record):
    """An image of the catalog. `max` is the highest confidence of a flaw, by `detector`."""

    id: str
    prompt: str = ""
    category: str | None = None
    source: str = ""
    split: str = ""
    generator: str | None = None
    height: int = 0
    width: int = 0
    round: str | None = None
    max: float | None = None
    uncertainty: float | None = None
    map: bool = False
    """Whether there is an artifact map."""
    detector: str | None = None
    labelled: bool = False
    tags: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ImageDetail(Record):
    """An image with its labels and predictions."""

    id: str
    prompt: str
    height: int
    width: int
    category: str | None = None
    source: str = ""
    split: str = ""
    generator: str | None = None
    round_id: str | None = None
    tags: Sequence[str] = ()
    labels: Sequence[Raw] = ()
    """Author, revision, whether it is clean, and its review, of every label."""
    predictions: Sequence[Raw] = ()
    """Highest and mean confidence by detector."""
    snapshots: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Count(Record):
    """How many images a filter selects, of how many; counting ends at 10,000 where `more` says so."""

    count: int
    total: int
    more: bool = False


@dataclass(frozen=True, kw_only=True)
class Imported(Record):
    """What an upload brought."""

    added: int = 0
    duplicates: int = 0
    labels: int = 0
    updated: int = 0
    refusals: int = 0
    refused: Sequence[Raw] = ()
    """The first of the files that could not be used, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """Work that a worker does."""

    id: str
    kind: str
    state: str
    progress: float = 0.0
    message: str = ""
    error: str | None = None
    result: Raw = field(default_factory=dict)
    worker: bool = True
    """Whether any worker is running."""


@dataclass(frozen=True, kw_only=True)
class Run(Record):
    """A training or treatment; `step` of `total` and `left` (seconds) while it runs."""

    run: str
    state: str
    name: str = ""
    progress: float = 0.0
    message: str = ""
    error: str | None = None
    note: str = ""
    """What keeps it from running, such as that no worker is there."""
    created: float = 0.0
    by: str = ""
    step: int | None = None
    total: int | None = None
    left: float | None = None
    result: Raw = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task(Record):
    """An image that is leased to this account until `expires` (seconds since the epoch)."""

    image: str
    height: int
    width: int
    prompt: str
    category: str | None
    lease: str | None
    expires: float | None
    revision: int
    """The account's newest revision of the image, 0 for none."""
    classes: Sequence[str]
    """Names of the label classes; the i-th has the value i in a label map."""
    remaining: int
    note: str = ""
    """The reviewer's note on a returned label."""


@dataclass(frozen=True, kw_only=True)
class Category(Record):
    """How often a detector finds artifacts in one category; `verdict` says whether that is hard."""

    category: str
    images: int
    mean: float
    verdict: str | None = None
    p: float | None = None
    reviewed: int = 0


@dataclass(frozen=True, kw_only=True)
class Sent(Record):
    """Images that were sent to people, and those left out: labelled, waiting, or of a benchmark."""

    selected: int
    sent: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Snapshot(Record):
    """A published training set: its rows by kind."""

    id: str
    rows: int
    composition: Mapping[str, int]
    created: float
    round: str | None = None
    parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Generator(Record):
    """A generator; `parent` and `treatment_id` are those of a treated one."""

    id: str
    name: str
    parent: str | None = None
    treatment_id: str | None = None
    licence: str = ""
    created: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Detector(Record):
    """A detector with its figures on validation images, lower is better, None where not measured."""

    id: str
    name: str
    role: str
    created: float = 0.0
    round: str | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """A detector beside the champion: the verdict on every figure, and what speaks against promoting."""

    id: str
    name: str
    champion: Raw | None
    verdicts: Sequence[Raw] = ()
    objections: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Treatment(Record):
    """A treated generator: how often held-out images are flawed before and after."""

    id: str
    base: Raw
    treated: Raw | None = None
    detector: Raw = field(default_factory=dict)
    run: str | None = None
    kept: int | None = None
    updates: int | None = None
    stopped: str = ""
    judged: Raw = field(default_factory=dict)
    pairs: Sequence[Raw] = ()
    """Images before and after of one prompt and seed, by id."""


@dataclass(frozen=True, kw_only=True)
class Study(Record):
    """A blind study; `results` only from `studies.get`."""

    id: str
    name: str
    before: str
    after: str
    state: str
    pairs: int
    complete: int = 0
    raters: Any = None
    votes: int = 0
    share: float = 0.0
    results: Raw = field(default_factory=dict)
