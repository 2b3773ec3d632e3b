"""Work on the images of a filter, as jobs: find artifacts, sort by category, send to people, repair, export.

The filter is in the words of the page's address.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import FileResponse, Response, StreamingResponse

from dataengine.curation.config import MiningConfig
from pipelines.config import CategorizeConfig
from pipelines.selections.config import (
    CategorizationRun,
    DiagnosisRun,
    ExportFormat,
    ExportRun,
    ImageQuery,
    MiningRun,
    RepairRun,
)
from pipelines.services.exchange import archives
from pipelines.services.images.repairs import request_repair
from pipelines.services.images.work import request_work, work_choices
from pipelines.services.locations import check_locations
from pipelines.services.runs import validated
from pipelines.services.schemas import Name, RequestBody
from storage.workspace import Workspace
from ui.web.sessions import SignedIn

MOST_SENT = 20_000
Category = Annotated[str, Field(min_length=1, max_length=100)]


class Order(RequestBody):
    """The images to work on; all of them by default."""

    images: ImageQuery = ImageQuery()


class DiagnosisOrder(Order):
    """A detector's id, or "clinic"; null for the champion."""

    detector: Name | None = None


class CategorizationOrder(Order):
    """A registered VQA model, and the categories that it may answer."""

    model: str = Field(min_length=1, max_length=500)
    categories: list[Category] = Field(default=[], max_length=200)


class MiningOrder(Order):
    """How many images annotators get."""

    detector: Name | None = None
    budget: int = Field(default=100, ge=1, le=MOST_SENT)


class RepairsOrder(Order):
    """The generator that redraws artifacts, and the detector that finds them."""

    generator: Name
    detector: Name | None = None


class ExportOrder(Order):
    """A format, and what is written."""

    format: ExportFormat = "folder"
    snapshot: Name | None = None
    only_labelled: bool = False
    pictures: bool = True


def work_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/work."""
    routes = APIRouter(prefix="/work")

    @routes.get("/choices")
    def choices(wanted: Annotated[ImageQuery, Query()]) -> dict[str, Any]:
        """What the forms offer for these images."""
        return work_choices(workspace, wanted) | {"formats": archives.export_formats()}

    @routes.post("/diagnose")
    def diagnose(body: DiagnosisOrder, person: SignedIn) -> dict[str, str]:
        run = DiagnosisRun(images=body.images, detector=body.detector)
        return {"job": request_work(workspace, run, person.name).id}

    @routes.post("/categorize")
    def categorize(body: CategorizationOrder, person: SignedIn) -> dict[str, str]:
        settings: dict[str, Any] = {"model": body.model}
        if body.categories:
            settings["vqa"] = {"categories": body.categories}
        run = CategorizationRun(images=body.images, categorize=validated(CategorizeConfig, settings))
        check_locations(workspace, run)
        return {"job": request_work(workspace, run, person.name).id}

    @routes.post("/send")
    def send(body: MiningOrder, person: SignedIn) -> dict[str, str]:
        mine = MiningConfig(budget=body.budget)
        run = MiningRun(images=body.images, detector=body.detector, mine=mine)
        return {"job": request_work(workspace, run, person.name).id}

    @routes.post("/repair")
    def repair(body: RepairsOrder, person: SignedIn) -> dict[str, str]:
        run = RepairRun(images=body.images, generator=body.generator, detector=body.detector)
        return {"job": request_repair(workspace, run, person.name).id}

    @routes.post("/export")
    def export(body: ExportOrder, person: SignedIn) -> dict[str, str]:
        run = validated(ExportRun, body.model_dump(mode="json"))
        return {"job": archives.request_export(workspace, run, person.name).id}

    @routes.get("/export/{job_id}.zip")
    def download(job_id: Annotated[str, Path(max_length=100)]) -> Response:
        archive = archives.exported_archive(workspace, job_id)
        if archive.file is not None:
            return FileResponse(archive.file, media_type="application/zip", filename=archive.name)
        headers = {
            "Content-Disposition": f'attachment; filename="{archive.name}"',
            "Content-Length": str(archive.size),
        }
        return StreamingResponse(archive.parts, media_type="application/zip", headers=headers)

    return routes
