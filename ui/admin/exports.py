"""The files of the Admin desk: backups and the audit trail as a table. Gradio's own downloads stay closed."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, Response

from pipelines.services.admin import audit, backups
from storage.workspace import Workspace
from ui.admin.audit import filter_of
from ui.web.access import ADMINS
from ui.web.sessions import Requires

Short = Annotated[str, Query(max_length=200)]


def export_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/admin."""
    routes = APIRouter(dependencies=[Requires(ADMINS, "downloading")])

    @routes.get("/api/admin/backups/{name}")
    def backup(name: str) -> Response:
        file = backups.backup_file(workspace, name)
        return FileResponse(file, media_type="application/x-tar", filename=name)

    @routes.get("/api/admin/audit.csv")
    def trail(
        actor: Short = "", topic: Short = "", since: Short = "", until: Short = "", text: Short = ""
    ) -> Response:
        table = audit.audit_csv(workspace, filter_of(actor, topic, since, until, text))
        headers = {"Content-Disposition": 'attachment; filename="audit.csv"'}
        return Response(table, media_type="text/csv; charset=utf-8", headers=headers)

    return routes
