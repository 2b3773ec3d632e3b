"""Making blind studies: choose what is compared, see how far the judging is and what it found, close it."""

import secrets
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import Conflict, InputRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import AuditEvent, Study, digest, now
from storage import accounts
from storage.catalog import Catalog
from storage.queries.studies import SharedPair, shared_pairs, study_progress
from storage.workspace import Workspace
from ui.access import ACCESS, require
from ui.auth import Person, signed_in
from ui.study_blinding import design_of
from ui.study_results import results_csv, results_of, votes_csv

MAKING = ACCESS["/api/studies"]
MAX_PAIRS = 5000

Signed = Annotated[Person, Depends(signed_in)]
Short = Annotated[str, Field(max_length=200)]


def making(person: Signed) -> Person:
    """FastAPI dependency: somebody who may make studies."""
    require(person.roles, MAKING, "making studies")
    return person


Maker = Annotated[Person, Depends(making)]


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


def making_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/studies."""
    routes = APIRouter(prefix="/api/studies", tags=["studies"], dependencies=[Depends(making)])

    @routes.get("")
    def studies() -> list[dict[str, Any]]:
        """Every study, the newest first."""
        with workspace.catalog(read_only=True) as catalog:
            names = {one.id: one.name for one in catalog.generators.list()}
            return [row(catalog, study, names) for study in reversed(catalog.studies.list())]

    @routes.get("/choices")
    def choices() -> dict[str, Any]:
        """What the form offers: generators, and the settings with their help."""
        with workspace.catalog(read_only=True) as catalog:
            generators = [
                {"id": one.id, "name": one.name, "parent": one.parent}
                for one in reversed(catalog.generators.list())
            ]
        fields = StudyDesign.model_json_schema()["properties"]
        return {
            "generators": generators,
            "defaults": StudyDesign().model_dump(mode="json"),
            "help": {name: field.get("description", "") for name, field in fields.items()},
        }

    @routes.get("/shared")
    def shared(before: Short, after: Short, purpose: Short | None = None) -> dict[str, Any]:
        """How many prompts and seeds two generators have in common."""
        with workspace.catalog(read_only=True) as catalog:
            found = shared_pairs(catalog, before, after, purpose)
        return {
            "pairs": len(found),
            "categories": Counter(one.category or "none" for one in found),
            "purposes": Counter(one.purpose for one in found),
        }

    @routes.post("")
    def create(wanted: NewStudy, person: Maker) -> dict[str, str]:
        """Open a study."""
        with workspace.catalog() as catalog:
            study = new_study(catalog, wanted, person.name)
            catalog.commit()
        return {"id": study.id}

    @routes.get("/{study_id}")
    def study(study_id: str) -> dict[str, Any]:
        """One study and what it has found so far."""
        with workspace.catalog(read_only=True) as catalog:
            names = {one.id: one.name for one in catalog.generators.list()}
            found = catalog.studies.get(study_id)
            open_until = max((one.expires for one in catalog.invitations.of_study(study_id)), default=0.0)
            return row(catalog, found, names) | {
                "results": results_of(catalog, found),
                "guests": len(catalog.guests.of_study(study_id)),
                "invited_until": open_until if open_until > now() else None,
            }

    @routes.get("/{study_id}/{table}.csv")
    def download(study_id: str, table: str) -> Response:
        """Votes or results as CSV."""
        tables = {"votes": votes_csv, "results": results_csv}
        if table not in tables:
            raise InputRefused(f"there is no table {table!r}; there are {', '.join(tables)}")
        with workspace.catalog(read_only=True) as catalog:
            text = tables[table](catalog, catalog.studies.get(study_id))
        name = f"study-{study_id}-{table}.csv"
        return Response(
            text, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    @routes.post("/{study_id}/close")
    def close(study_id: str, person: Maker) -> dict[str, bool]:
        """Take no more votes; accounts that came by invitation are closed with it."""
        with workspace.catalog() as catalog:
            close_study(catalog, study_id, person.name)
            catalog.commit()
        return {"closed": True}

    return routes


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


def row(catalog: Catalog, study: Study, names: dict[str, str]) -> dict[str, Any]:
    """A study as its makers see it."""
    progress, design = study_progress(catalog, study), design_of(study)
    wanted = len(study.pairs) * design.raters_a_pair
    given = sum(min(count, design.raters_a_pair) for count in progress.by_pair.values())
    return {
        "id": study.id,
        "name": study.name,
        "before": names.get(study.before_id, study.before_id),
        "after": names.get(study.after_id, study.after_id),
        "state": study.state,
        "round": study.round_id,
        "created": study.created,
        "created_by": study.created_by,
        "design": design.model_dump(mode="json"),
        "pairs": len(study.pairs),
        "complete": sum(count >= design.raters_a_pair for count in progress.by_pair.values()),
        "raters": progress.raters,
        "votes": progress.votes,
        "share": given / wanted if wanted else 0.0,
    }
