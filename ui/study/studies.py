"""Creating blind studies: choose sides and questions, monitor progress and results, close."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from dataengine.errors import InputRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import Study, now, threshold_of
from pipelines.services.studies.lifecycle import NewStudy, Short, close_study, open_repair_study, open_study
from pipelines.services.studies.plans import design_of
from pipelines.services.studies.results import results_csv, results_of, votes_csv
from pipelines.services.studies.sheets import MAX_SHEET, read_sheet, write_sheet
from pipelines.services.studies.sides import pairs_between, sides_of
from pipelines.services.studies.voting import progress_of
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.web.access import ENGINEERS
from ui.web.blob_pool import reads_blobs
from ui.web.sessions import Person, Requires

MAKING = Requires(ENGINEERS, "creating studies")
Maker = Annotated[Person, MAKING]
RaterName = Annotated[str, Field(min_length=1, max_length=48)]
CHUNK = 1 << 20


class FilledSheet(BaseModel):
    """A sheet that came back: whose it is, and the CSV file's text."""

    model_config = ConfigDict(extra="forbid")
    rater: RaterName
    csv: str = Field(max_length=MAX_SHEET)


def making_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/studies."""
    routes = APIRouter(prefix="/api/studies", tags=["studies"], dependencies=[MAKING])

    @routes.get("")
    def studies() -> list[dict[str, Any]]:
        """Every study, the newest first."""
        with workspace.catalog(read_only=True) as catalog:
            names = {one.id: one.name for one in catalog.generators.list()}
            return [row(catalog, study, names) for study in reversed(catalog.studies.list())]

    @routes.get("/choices")
    def choices() -> dict[str, Any]:
        """The form's choices: sides, detectors, and the settings with their help texts."""
        with workspace.catalog(read_only=True) as catalog:
            sides = [asdict(side) for side in sides_of(catalog)]
            generators = [
                {"id": one.id, "name": one.name, "parent": one.parent}
                for one in reversed(catalog.generators.offered())
            ]
            detectors = [
                {"id": one.id, "name": one.name, "threshold": threshold_of(one)}
                for one in reversed(catalog.detectors.offered())
            ]
        fields = StudyDesign.model_json_schema()["properties"]
        return {
            "generators": generators,
            "sides": sides,
            "detectors": detectors,
            "defaults": StudyDesign().model_dump(mode="json"),
            "help": {name: field.get("description", "") for name, field in fields.items()},
        }

    @routes.get("/shared")
    def shared(
        before: Short, after: Short, purpose: Short | None = None, flawed_by: Short | None = None
    ) -> dict[str, Any]:
        """How many prompts and seeds two sides have in common, and in how many the detector `flawed_by` flags
        the first image."""
        with workspace.catalog(read_only=True) as catalog:
            everything = pairs_between(catalog, before, after, purpose)
            found = everything
            if flawed_by:
                found = pairs_between(catalog, before, after, purpose, flawed_by=flawed_by)
        return {
            "shared": len(everything),
            "pairs": len(found),
            "categories": Counter(one.category or "none" for one in found),
            "purposes": Counter(one.purpose for one in found),
        }

    @routes.post("")
    def create(wanted: NewStudy, person: Maker) -> dict[str, str]:
        """Open a study."""
        return {"id": open_study(workspace, wanted, person.name).id}

    @routes.post("/repairs")
    def compare_repairs(person: Maker) -> dict[str, str]:
        """Open a study of all accepted repairs and their originals."""
        return {"id": open_repair_study(workspace, person.name).id}

    @routes.get("/{study_id}")
    def study(study_id: str) -> dict[str, Any]:
        """One study and its results so far."""
        with workspace.catalog(read_only=True) as catalog:
            names = {one.id: one.name for one in catalog.generators.list()}
            found = catalog.studies.get(study_id)
            open_until = max((one.expires for one in catalog.invitations.of_study(study_id)), default=0.0)
            return row(catalog, found, names) | {
                "results": results_of(catalog, found),
                "guests": len(catalog.guests.of_study(study_id)),
                "invited_until": open_until if open_until > now() else None,
            }

    @routes.get("/{study_id}/sheet.zip")
    @reads_blobs
    def sheet(study_id: str, rater: RaterName) -> Response:
        """The blind pairs as a spreadsheet with images, for one rater without the server."""
        with ExitStack() as stack:
            file = stack.enter_context(TemporaryFile())
            write_sheet(workspace, study_id, rater, file)
            file.seek(0)
            sent = stack.pop_all()
        return StreamingResponse(
            iter(lambda: file.read(CHUNK), b""),
            media_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="study-{study_id}-{rater}.zip"'},
            background=BackgroundTask(sent.close),
        )

    @routes.post("/{study_id}/sheet")
    def take_sheet(study_id: str, filled: FilledSheet, person: Maker) -> dict[str, int]:
        """Store a filled sheet as the votes of its rater: every row, or none."""
        return read_sheet(workspace, study_id, filled.rater, filled.csv.removeprefix("\ufeff"), person.name)

    @routes.get("/{study_id}/{table}.csv")
    def download(study_id: str, table: str) -> Response:
        """Votes or results as CSV."""
        tables = {"votes": votes_csv, "results": results_csv}
        if table not in tables:
            raise InputRefused(f"there is no table {table!r}; choose {' or '.join(tables)}")
        with workspace.catalog(read_only=True) as catalog:
            text = tables[table](catalog, catalog.studies.get(study_id))
        name = f"study-{study_id}-{table}.csv"
        return Response(
            text, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    @routes.post("/{study_id}/close")
    def close(study_id: str, person: Maker) -> dict[str, bool]:
        """Close the study, and deactivate the guest accounts that joined it."""
        close_study(workspace, study_id, person.name)
        return {"closed": True}

    return routes


def row(catalog: Catalog, study: Study, names: dict[str, str]) -> dict[str, Any]:
    """A study as its makers see it."""
    progress, design = progress_of(catalog, study), design_of(study)
    wanted = len(study.pairs) * design.raters_a_pair
    given = sum(min(count, design.raters_a_pair) for count in progress.by_pair.values())
    return {
        "id": study.id,
        "name": study.name,
        "before": side_name(names.get(study.before_id, study.before_id), design.sides[0]),
        "after": side_name(names.get(study.after_id, study.after_id), design.sides[1]),
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


def side_name(generator: str, words: str) -> str:
    """The name of a side: its generator, and what tells it from that generator's other images."""
    return f"{generator}, {words}" if words else generator
