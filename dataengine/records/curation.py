"""Records of curation: saved views of the image grid, and pilots."""

from dataclasses import dataclass, field
from typing import Any

from dataengine.records.identity import now


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedView:
    """A filter and order of the image grid under a name; a shared one is the whole team's."""

    id: str
    name: str
    owner: str
    query: dict[str, Any]
    """The parts of the grid's address: `{"category": "hand", "sort": "max"}`."""
    shared: bool = False
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """A small annotation campaign that measures what a large one would cost; its id is its round in the
    queue."""

    id: str
    name: str
    created_by: str
    images: int
    annotations_per_image: int
    created: float = field(default_factory=now)
