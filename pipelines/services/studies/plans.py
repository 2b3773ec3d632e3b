"""Each rater's plan: the pairs of a blind study in order, with their sides."""

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from dataengine.quality.config import StudyDesign
from dataengine.records import Study

Role = Literal["before", "after"]

CHECK_EVERY = 12
"""A rater sees an attention check at least once in this many pairs, while there are any left."""


@dataclass(frozen=True, kw_only=True)
class Showing:
    """One pair, or attention check, as one rater sees it."""

    pair: int
    task: str
    left: Role
    pictures: dict[Role, str] = field(hash=False)
    """The name under which each image is served to this rater."""

    @property
    def right(self) -> Role:
        """The image on the right."""
        return "before" if self.left == "after" else "after"


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything one rater may be shown, in order."""

    showings: tuple[Showing, ...]
    by_task: dict[str, Showing]
    by_picture: dict[str, tuple[int, Role]]


def design_of(study: Study) -> StudyDesign:
    """The study's design, with defaults for missing values."""
    return StudyDesign.model_validate(study.design)


def plan_of(study: Study, rater: str) -> StudyPlan:
    """The rater's plan, which is deterministic."""
    return _plan(study.seed, study.id, rater, len(study.pairs), design_of(study).checks)


@lru_cache(maxsize=64)
def _plan(seed: int, study_id: str, rater: str, pairs: int, checks: int) -> StudyPlan:
    key = hashlib.sha256(f"{seed}:{study_id}".encode()).digest()

    def draw(*words: object) -> str:
        text = "\x1f".join([rater, *map(str, words)])
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def showing(pair: int) -> Showing:
        return Showing(
            pair=pair,
            task=draw("task", pair),
            left="before" if int(draw("side", pair), 16) % 2 else "after",
            pictures={"before": draw("picture", pair, 0), "after": draw("picture", pair, 1)},
        )

    order = sorted(range(pairs), key=lambda pair: draw("order", pair))
    gap = max(1, min(CHECK_EVERY, pairs // (checks + 1)))
    for check in range(checks):
        shift = int(draw("check", check), 16) % min(3, gap)
        order.insert(min(len(order), (check + 1) * (gap + 1) - 1 - shift), pairs + check)
    showings = tuple(map(showing, order))
    return StudyPlan(
        showings=showings,
        by_task={one.task: one for one in showings},
        by_picture={name: (one.pair, role) for one in showings for role, name in one.pictures.items()},
    )
