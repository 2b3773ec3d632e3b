"""Open and close blind studies."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import Conflict, InputRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import AuditEvent, Study, digest, now
from storage import accounts
from storage.catalog import Catalog
from storage.queries.studies import SharedPair, shared_pairs

Role = Literal["before", "after"]

CHECK_EVERY = 12
"""A rater meets an attention check at least this often, as long as there are any left."""


@dataclass(frozen=True, kw_only=True)
class Showing:
    """One pair, or attention check, as one rater sees it."""

    pair: int
    task: str
    left: Role
    pictures: dict[Role, str] = field(hash=False)
    """The name under which each picture is served to this rater."""

    @property
    def right(self) -> Role:
        """What stands on the right."""
        return "before" if self.left == "after" else "after"


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything one rater may be shown, in order."""

    showings: tuple[Showing, ...]
    by_task: dict[str, Showing]
    by_picture: dict[str, tuple[int, Role]]


def design_of(study: Study) -> StudyDesign:
    """What the study asks; the defaults where its row says nothing."""
    return StudyDesign.model_validate(study.design)


def plan_of(study: Study, rater: str) -> StudyPlan:
    """The rater's plan, the same whenever it is asked for."""
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


MAX_PAIRS = 5000


Short = Annotated[str, Field(max_length=200)]


class NewStudy(BaseModel):
    """What is compared, and how."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100)
    before: Short
    after: Short
    purpose: Short | None = None
    round: Short | None = None
    categories: list[Short] = Field(default=[], max_length=100)
    pairs: int = Field(default=100, ge=1, le=MAX_PAIRS)
    design: StudyDesign = StudyDesign()


def new_study(catalog: Catalog, wanted: NewStudy, maker: str) -> Study:
    """Choose the pairs at random and write the row. Raises `InputRefused` with nothing to compare."""
    for generator in (wanted.before, wanted.after):
        catalog.generators.get(generator)
    if wanted.before == wanted.after:
        raise InputRefused("both sides are one generator; choose two")
    found = shared_pairs(
        catalog, wanted.before, wanted.after, wanted.purpose, wanted.categories, wanted.round
    )
    if not found:
        raise InputRefused(
            "these two generators have no picture of the same prompt and seed within that choice; "
            "let both draw the same prompts first, as a round's judging does"
        )
    seed = secrets.randbits(62)
    study = Study(
        id=digest("study", seed),
        name=wanted.name.strip(),
        before_id=wanted.before,
        after_id=wanted.after,
        pairs=tuple((one.before, one.after) for one in chosen(found, wanted.pairs, seed)),
        seed=seed,
        round_id=wanted.round,
        design=wanted.design.model_dump(mode="json"),
        created_by=maker,
    )
    catalog.studies.add(study)
    catalog.audit.add(
        AuditEvent(actor=maker, action="study.open", subject=study.id, details={"pairs": len(study.pairs)})
    )
    return study


def chosen(found: list[SharedPair], count: int, seed: int) -> list[SharedPair]:
    """At most `count` of the pairs, drawn by the seed."""
    return sorted(found, key=lambda one: digest(seed, one.before, one.after))[:count]


def close_study(catalog: Catalog, study_id: str, actor: str) -> None:
    """End judging and invitations. Raises `Conflict` when it is closed already."""
    if catalog.studies.get(study_id).state == "closed":
        raise Conflict("this study is closed already")
    catalog.studies.close(study_id)
    catalog.invitations.end(study_id, now())
    for guest in catalog.guests.of_study(study_id):
        accounts.set_active(catalog, guest.name, False, actor)
    catalog.audit.add(AuditEvent(actor=actor, action="study.close", subject=study_id))
