"""Agreement between annotators by category and person, gold scores, and comments."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from pipelines.services.agreement import agreement_report
from pipelines.services.annotation import comment_on
from pipelines.services.gold import gold_report
from storage.workspace import Workspace
from ui.web.access import CURATORS
from ui.web.sessions import Person, Requires

SHOWN_COMMENTS = 50
SEEING_PEOPLE = Requires(CURATORS, "viewing agreement")
Curator = Annotated[Person, SEEING_PEOPLE]
"""Who may see the figures of individual annotators."""


class Reply(BaseModel):
    """A curator's answer to a comment."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(min_length=1, max_length=128)
    text: str = Field(min_length=1, max_length=2000)


def agreement_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/people."""
    routes = APIRouter(prefix="/people", dependencies=[SEEING_PEOPLE])

    @routes.get("/agreement")
    def agreement() -> dict[str, Any]:
        return agreement_report(workspace)

    @routes.get("/gold")
    def gold() -> dict[str, Any]:
        return gold_report(workspace)

    @routes.get("/comments")
    def comments() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            newest = catalog.comments.newest(SHOWN_COMMENTS)
        shown = [
            {"image": one.image_id, "author": one.author, "text": one.text, "created": one.created}
            for one in newest
        ]
        return {"comments": shown}

    @routes.post("/comments")
    def reply(body: Reply, person: Curator) -> dict[str, str]:
        return {"id": comment_on(workspace, body.image, person.name, body.text).id}

    return routes
