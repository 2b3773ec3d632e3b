"""Records of blind studies: pairs, votes, invitations and guests."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Blind pairwise judging of two generators on the same prompts and seeds."""

    id: str
    name: str
    before_id: str
    after_id: str
    pairs: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    state: Literal["open", "closed"] = "open"
    round_id: str | None = None
    design: dict[str, Any] = field(default_factory=dict)
    created_by: str = ""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One rater's vote on one pair and question; `choice` is unblinded.

    Pairs from `len(study.pairs)` on are attention checks, in which "after" is the unspoiled image.
    """

    study_id: str
    pair: int
    rater: str
    question: str
    choice: Literal["before", "after", "tie"]
    seconds: float = 0.0
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """A link by which people without an account become raters of one study; only its token's hash is
    stored."""

    token_hash: str
    study_id: str
    created_by: str
    expires: float
    places: int
    taken: int = 0
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """An account created by an invitation, restricted to judging that study."""

    name: str
    study_id: str
    created: float = field(default_factory=now)
