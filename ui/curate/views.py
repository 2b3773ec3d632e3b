"""Saved views of the grid."""

from typing import Any

from fastapi import APIRouter

from pipelines.services.images.views import (
    NewView,
    ViewChange,
    change_view,
    delete_view,
    list_views,
    save_view,
)
from storage.workspace import Workspace
from ui.web.sessions import SignedIn


def view_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/views."""
    routes = APIRouter(prefix="/views")

    def listed(person: str) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return {"views": list_views(catalog, person)}

    @routes.get("")
    def views(person: SignedIn) -> dict[str, Any]:
        return listed(person.name)

    @routes.post("")
    def save(body: NewView, person: SignedIn) -> dict[str, Any]:
        return {"id": save_view(workspace, body, person.name).id, **listed(person.name)}

    @routes.post("/{view_id}")
    def change(view_id: str, body: ViewChange, person: SignedIn) -> dict[str, Any]:
        change_view(workspace, view_id, body, person.name)
        return listed(person.name)

    @routes.delete("/{view_id}")
    def delete(view_id: str, person: SignedIn) -> dict[str, Any]:
        delete_view(workspace, view_id, person.name)
        return listed(person.name)

    return routes
