"""Hard categories, sending images to annotators, and the balance of the training set."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from dataengine.errors import InputRefused
from pipelines.selections.config import DiagnosisRun
from pipelines.services.categories import (
    Ask,
    balance_report,
    category_report,
    detectors_to_try,
    send_to_people,
)
from pipelines.services.images.work import request_work
from pipelines.services.jobs import request_job
from pipelines.services.schemas import Name, RequestBody
from storage.queries.labels import Policy
from storage.workspace import Workspace
from ui.web.sessions import SignedIn

MOST_INJECTED = 100_000
"""Images with an injected artifact that the balance counts at most."""


class RealPhotos(RequestBody):
    """Real photos of a registered folder become examples without artifacts."""

    folder: Name
    licence: str = Field(default="", max_length=200)


def category_routes(workspace: Workspace) -> APIRouter:
    """/categories, /ask and /balance."""
    routes = APIRouter()

    @routes.get("/categories")
    def categories(detector: str | None = None) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            for id in [detector] if detector else detectors_to_try(catalog):
                report = category_report(catalog, id)
                if report["categories"]:
                    break
            return report

    @routes.post("/categories/diagnose")
    def diagnose(person: SignedIn) -> dict[str, str]:
        """Let the champion predict all images that it has not."""
        return {"job": request_work(workspace, DiagnosisRun(), person.name).id}

    @routes.post("/ask")
    def ask(body: Ask, person: SignedIn) -> dict[str, Any]:
        return {"sent": send_to_people(workspace, body, person.name)}

    @routes.get("/balance")
    def balance(policy: Policy = "unreturned", injected: bool = False) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return balance_report(catalog, policy, MOST_INJECTED if injected else 0)

    @routes.post("/balance/real")
    def add_real(body: RealPhotos, person: SignedIn) -> dict[str, str]:
        with workspace.catalog(read_only=True) as catalog:
            folder = catalog.endpoints.get(body.folder)
        if folder.kind != "folder":
            raise InputRefused(f"{folder.name!r} is a {folder.kind}; choose a registered folder")
        args = {"path": folder.location, "source": "real", "licence": body.licence}
        return {"job": request_job(workspace, "import", args, person.name).id}

    return routes
