"""A person's own answers, searched; and that they have finished the practice images."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from pipelines.services.annotation import finish_tour
from pipelines.services.schemas import Short
from storage.queries.annotation import page_of_own_answers
from storage.workspace import Workspace
from ui.annotate.annotator import Annotator
from ui.annotate.schemas import OwnAnswer, OwnAnswers
from ui.web.errors import ERRORS

PAGE = 48


def own_answer_routes(workspace: Workspace) -> APIRouter:
    """/answers and /tour."""
    routes = APIRouter(prefix="/annotate", tags=["annotate"], responses=ERRORS)

    @routes.get("/answers", response_model=OwnAnswers)
    def answers(
        person: Annotator,
        text: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
        shows: Annotated[int | None, Query(ge=0, le=31)] = None,
        state: Literal["unreviewed", "returned", "approved", "any"] = "any",
        after: Short | None = None,
    ) -> OwnAnswers:
        """The person's newest answer of each image, newest first: those whose prompt contains `text` and that
        show class `shows`, 0 for clean. `after` is the image that the page before ended with."""
        with workspace.catalog(read_only=True) as catalog:
            rows, more = page_of_own_answers(catalog, person.name, text, shows, state, after, PAGE)
        found = [OwnAnswer(**row) for row in rows]
        return OwnAnswers(answers=found, after=found[-1].image if more else None)

    @routes.post("/tour")
    def tour(person: Annotator) -> dict[str, bool]:
        """Remember that this account has finished the practice images."""
        finish_tour(workspace, person.name)
        return {"finished": True}

    return routes
