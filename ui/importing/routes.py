"""The API of the import page: uploads in pieces, folders of the server, the demo's images."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from dataengine.bounds import UPLOAD_PIECE
from dataengine.records import UploadedFile, UploadPart
from pipelines.services.exchange import uploads
from pipelines.services.exchange.uploads import ImportSettings
from pipelines.services.queue import workers_alive
from pipelines.services.schemas import Name, RequestBody
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.web.access import ADMINS, may, roles
from ui.web.sessions import Person, Requires

IMPORTERS = roles("curator", "engineer")
IMPORTING = Requires(IMPORTERS, "importing images")
Importer = Annotated[Person, IMPORTING]
PIECE = "/api/import/piece"
Whole = Annotated[int, Query(ge=0, le=2**40)]
UploadId = Annotated[str, Path(max_length=100)]


class NewUpload(RequestBody):
    """An upload of so many bytes."""

    total: int = Field(default=0, ge=0, le=2**50)


class FolderImport(RequestBody):
    """A registered folder, and how it is read."""

    folder: Name
    settings: ImportSettings = ImportSettings()


def import_routes(workspace: Workspace, settings: ServerConfig) -> APIRouter:
    """The routes under /api/import."""
    routes = APIRouter(prefix="/api/import", dependencies=[IMPORTING])

    @routes.get("/choices")
    def choices(person: Importer) -> dict[str, Any]:
        """What the forms offer."""
        with workspace.catalog(read_only=True) as catalog:
            return {
                "images": catalog.images.count(),
                "classes": list(catalog.classes.names()),
                "generators": [{"id": one.id, "name": one.name} for one in catalog.generators.offered()],
                "folders": [
                    {"id": one.id, "name": one.name, "location": one.location}
                    for one in catalog.endpoints.of_kind("folder")
                ],
                "formats": uploads.import_formats(),
                "coordinates": uploads.box_coordinates(),
                "piece": min(UPLOAD_PIECE, settings.max_body_bytes),
                "may_register": may(person.roles, ADMINS),
                "worker": bool(workers_alive(workspace)),
            }

    @routes.get("/uploads")
    def listed(person: Importer) -> dict[str, Any]:
        return {"uploads": uploads.list_uploads(workspace, person.name)}

    @routes.post("/uploads")
    def start(body: NewUpload, person: Importer) -> dict[str, str]:
        return {"id": uploads.start_upload(workspace, person.name, body.total).id}

    @routes.get("/uploads/{upload_id}")
    def status(upload_id: UploadId, person: Importer) -> dict[str, Any]:
        return uploads.describe(workspace, uploads.find_upload(workspace, upload_id, person.name))

    @routes.get("/uploads/{upload_id}/files")
    def received(upload_id: UploadId, person: Importer) -> dict[str, Any]:
        return {"files": uploads.received_files(workspace, upload_id, person.name)}

    @routes.post("/uploads/{upload_id}/finish")
    def finish(upload_id: UploadId, body: ImportSettings, person: Importer) -> dict[str, str]:
        return {"state": uploads.finish_upload(workspace, upload_id, person.name, body).state}

    @routes.post("/uploads/{upload_id}/discard")
    def discard(upload_id: UploadId, person: Importer) -> dict[str, str]:
        uploads.discard_upload(workspace, upload_id, person.name)
        return {"discarded": upload_id}

    @routes.get("/uploads/{upload_id}/problems.csv")
    def problems(upload_id: UploadId, person: Importer) -> Response:
        path = uploads.problems_file(workspace, upload_id, person.name)
        return FileResponse(path, media_type="text/csv", filename="import-problems.csv")

    @routes.get("/piece")
    def arrived(
        person: Importer,
        upload: Annotated[str, Query(max_length=100)],
        name: Annotated[str, Query(min_length=1, max_length=4000)],
        part: UploadPart = "images",
    ) -> dict[str, int]:
        """How many bytes of an unfinished file have arrived, so that a program sends it on from there."""
        return {"received": uploads.received_bytes(workspace, upload, person.name, part, name)}

    @routes.post("/piece")
    async def piece(
        request: Request,
        person: Importer,
        upload: Annotated[str, Query(max_length=100)],
        name: Annotated[str, Query(min_length=1, max_length=4000)],
        size: Whole,
        part: UploadPart = "images",
        offset: Whole = 0,
        sha256: Annotated[str, Query(max_length=64)] = "",
    ) -> dict[str, Any]:
        """Bytes of a file from `offset` on; the body is the bytes."""
        file = UploadedFile(part=part, name=name, size=size, sha256=sha256)
        body = await request.body()
        return await run_in_threadpool(
            uploads.receive_piece, workspace, upload, person.name, file, offset, body
        )

    @routes.post("/folder")
    def folder(body: FolderImport, person: Importer) -> dict[str, str]:
        job = uploads.request_folder_import(workspace, body.folder, body.settings, person.name)
        return {"job": job.id}

    @routes.post("/demo")
    def demo(person: Importer) -> dict[str, str]:
        return {"job": uploads.request_demo(workspace, person.name).id}

    return routes
