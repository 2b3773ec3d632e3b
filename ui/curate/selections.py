"""What is done to images selected in the grid, by their ids or by the grid's filter."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from pipelines.services.images.actions import (
    AssignImages,
    EraseImages,
    OnImages,
    SendImages,
    SplitChange,
    TagChange,
    assign_images,
    erase_images,
    erasure_of,
    send_images,
    split_images,
    tag_images,
)
from storage.workspace import Workspace
from ui.curate.reviews import Judge
from ui.web.sessions import SignedIn


def selection_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/selected."""
    routes = APIRouter(prefix="/selected")

    @routes.post("/tag")
    def tag(body: TagChange, person: SignedIn) -> dict[str, int]:
        return tag_images(workspace, body, person.name)

    @routes.post("/send")
    def send(body: SendImages, person: SignedIn) -> dict[str, int]:
        return send_images(workspace, body, person.name)

    @routes.post("/assign")
    def assign(body: AssignImages, person: SignedIn) -> dict[str, int]:
        return assign_images(workspace, body, person.name)

    @routes.post("/split")
    def split(body: SplitChange, person: SignedIn) -> dict[str, int]:
        return split_images(workspace, body, person.name)

    @routes.post("/erasure")
    def erasure(body: OnImages, person: Judge) -> dict[str, Any]:
        return asdict(erasure_of(workspace, body.chosen))

    @routes.post("/erase")
    def erase(body: EraseImages, person: Judge) -> dict[str, Any]:
        return asdict(erase_images(workspace, body, person.name))

    return routes
