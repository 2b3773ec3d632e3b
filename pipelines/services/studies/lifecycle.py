"""Open and close blind studies."""

import secrets
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import ConfigRefused, Conflict, InputRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import AuditEvent, Study, digest, now
from dataengine.records.images import JUDGE
from storage import accounts
from storage.queries.studies import SharedPair, shared_pairs
from storage.workspace import Workspace

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


def open_study(workspace: Workspace, request: NewStudy, actor: str, seed: int | None = None) -> Study:
    """Sample the pairs by the seed, store the study and its audit event.

    Without `seed`, a random one is used, so that nobody can know the sides; the same
    request with the same seed returns the study that exists. Raises `InputRefused` without pairs to compare,
    `NotFound` for an unknown generator.
    """
    seed = secrets.randbits(62) if seed is None else seed
    with workspace.catalog() as catalog:
        for generator in (request.before, request.after):
            catalog.generators.get(generator)
        if request.before == request.after:
            raise InputRefused("both sides are the same generator; choose two different ones")
        shared = shared_pairs(
            catalog, request.before, request.after, request.purpose, request.categories, request.round
        )
        if not shared:
            raise InputRefused(
                "these two generators have no images with the same prompt and seed in this selection; "
                "generate the same prompts with both first, as a round's judge stage does"
            )
        pairs = tuple((one.before, one.after) for one in sample_pairs(shared, request.pairs, seed))
        study = Study(
            id=digest("study", seed, request.before, request.after, *(id for pair in pairs for id in pair)),
            name=request.name.strip(),
            before_id=request.before,
            after_id=request.after,
            pairs=pairs,
            seed=seed,
            round_id=request.round,
            design=request.design.model_dump(mode="json"),
            created_by=actor,
        )
        if not catalog.studies.add(study):
            return catalog.studies.get(study.id)
        details = {"pairs": len(pairs)}
        catalog.audit.add(AuditEvent(actor=actor, action="study.open", subject=study.id, details=details))
        catalog.commit()
    return study


def open_round_study(
    workspace: Workspace,
    round_id: str,
    actor: str,
    name: str = "",
    seed: int | None = None,
    pairs: int = MAX_PAIRS,
) -> Study:
    """A study of a judged round's treated generator and its base. Raises `ConfigRefused` when the round has
    no pairs yet.
    """
    with workspace.catalog(read_only=True) as catalog:
        treated = catalog.rounds.get(round_id).results.get("treat", {})
        found = (
            shared_pairs(catalog, treated["generator"], treated["treated"], JUDGE, round_id=round_id)
            if treated.get("treated")
            else []
        )
    if not found:
        raise ConfigRefused(f"{round_id} has no pairs to compare: its treat or judge stage has not finished")
    request = NewStudy(
        name=name or f"Before and after, {round_id}",
        before=treated["generator"],
        after=treated["treated"],
        purpose=JUDGE,
        round=round_id,
        pairs=pairs,
    )
    return open_study(workspace, request, actor, seed)


def sample_pairs(found: list[SharedPair], count: int, seed: int) -> list[SharedPair]:
    """At most `count` of the pairs, in an order that the seed sets."""
    return sorted(found, key=lambda one: digest(seed, one.before, one.after))[:count]


def close_study(workspace: Workspace, study_id: str, actor: str) -> None:
    """End judging, the study's invitations and its guests' accounts. Raises `Conflict` when it is closed
    already, `NotFound`.
    """
    with workspace.catalog() as catalog:
        if catalog.studies.get(study_id).state == "closed":
            raise Conflict("this study is already closed")
        catalog.studies.close(study_id)
        catalog.invitations.end(study_id, now())
        for guest in catalog.guests.of_study(study_id):
            accounts.set_active(catalog, guest.name, False, actor)
        catalog.audit.add(AuditEvent(actor=actor, action="study.close", subject=study_id))
        catalog.commit()
