"""Open and close blind studies."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataengine.errors import ConfigRefused, Conflict, InputRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import REPAIRED, AuditEvent, Study, digest, now
from dataengine.records.images import JUDGE
from pipelines.runtime.events import announce
from pipelines.services.studies.sides import pairs_between, words_for
from storage import accounts
from storage.catalog import Catalog
from storage.queries.repairs import repair_pairs
from storage.queries.studies import SETTINGS, shared_pairs
from storage.workspace import Workspace

MAX_PAIRS = 5000
ORIGINAL = "original"
"""What a study of repairs compares with "repaired", in place of two generators."""

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
    flawed_by: Short | None = None
    """A detector: only pairs whose first image it flags at its operating point."""
    design: StudyDesign = StudyDesign()

    @model_validator(mode="after")
    def _margin_can_be_reached(self) -> Self:
        """Refuse a margin above the raters per pair; one that was not set is lowered to them."""
        margin, raters = self.design.margin, self.design.raters_a_pair
        if margin > raters and "margin" in self.design.model_fields_set:
            raise ValueError(
                f"no pair of {raters} rater{'s' * (raters != 1)} can lead by {margin} votes: "
                f"lower the margin to {raters} or less, or ask more raters per pair"
            )
        if margin > raters:
            self.design = self.design.model_copy(update={"margin": raters})
        return self


def open_study(workspace: Workspace, request: NewStudy, actor: str, seed: int | None = None) -> Study:
    """Sample the pairs by the seed, store the study and its audit event.

    Without `seed`, a random one is used, so that nobody can know the sides; the same
    request with the same seed returns the study that exists. Raises `InputRefused` without pairs to compare,
    `NotFound` for an unknown generator or detector.
    """
    seed = secrets.randbits(62) if seed is None else seed
    with workspace.catalog() as catalog:
        shared = pairs_between(
            catalog,
            request.before,
            request.after,
            request.purpose,
            request.categories,
            request.round,
            request.flawed_by,
        )
        if not shared:
            raise InputRefused(
                "these two sides have no images with the same prompt and seed in this selection; "
                "generate the same prompts with both first, as a round's judge stage does"
                + (", or leave out the detector" if request.flawed_by else "")
            )
        pairs = sample_pairs([(one.before, one.after) for one in shared], request.pairs, seed)
        study = _store(catalog, request, pairs, seed, actor)
        catalog.commit()
    return study


def _store(
    catalog: Catalog, request: NewStudy, pairs: Sequence[tuple[str, str]], seed: int, actor: str
) -> Study:
    """The study of these pairs with its audit event; the one that exists for the same pairs and seed."""
    sides = words_for(catalog, request.before), words_for(catalog, request.after)
    study = Study(
        id=digest("study", seed, request.before, request.after, *(id for pair in pairs for id in pair)),
        name=request.name.strip(),
        before_id=request.before.partition(SETTINGS)[0],
        after_id=request.after.partition(SETTINGS)[0],
        pairs=tuple(pairs),
        seed=seed,
        round_id=request.round,
        design=request.design.model_copy(update={"sides": sides}).model_dump(mode="json"),
        created_by=actor,
    )
    if catalog.studies.add(study):
        details = {"pairs": len(pairs)}
        catalog.audit.add(AuditEvent(actor=actor, action="study.open", subject=study.id, details=details))
    return catalog.studies.get(study.id)


def open_repair_study(
    workspace: Workspace, actor: str, name: str = "", seed: int | None = None, pairs: int = MAX_PAIRS
) -> Study:
    """A study of accepted repairs and their originals, sampled as in `open_study`.

    Raises `ConfigRefused` while no repair has been accepted.
    """
    seed = secrets.randbits(62) if seed is None else seed
    request = NewStudy(
        name=name or "Repairs and their originals", before=ORIGINAL, after=REPAIRED, pairs=pairs
    )
    with workspace.catalog() as catalog:
        found = [
            (one.original.id, one.repaired.id)
            for one in repair_pairs(catalog, "accepted")
            if one.original is not None
        ]
        if not found:
            raise ConfigRefused(
                "no repair has been accepted yet: run `clinic repair --images`, and accept what it proposes "
                "at /curate, tab Repairs"
            )
        study = _store(catalog, request, sample_pairs(found, pairs, seed), seed, actor)
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


def sample_pairs(found: Sequence[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """At most `count` of the pairs of image ids, in an order that the seed sets."""
    return sorted(found, key=lambda pair: digest(seed, *pair))[:count]


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
        announce(catalog, "study finished", study_id, study_id, "A study is closed; its results are final.")
        catalog.commit()
