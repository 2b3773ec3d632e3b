"""Blind judging at /study: what a rater sees and sends.

No response names a generator, a catalog image, or a side: pairs and images have random names for each rater,
and answers are unblinded on arrival.
"""

from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Response

from dataengine.errors import NotFound
from dataengine.records import Image, Study
from pipelines.services.studies.blind_images import blind_bodies
from pipelines.services.studies.plans import Showing, StudyPlan, design_of, plan_of
from pipelines.services.studies.voting import (
    VoteBody,
    cast_votes,
    images_of_pair,
    is_finished,
    is_for,
    judged_pair,
    judged_tasks,
    left_for,
    study_for,
)
from storage.catalog import Catalog
from storage.queries.studies import pairs_answered
from storage.workspace import Workspace
from ui.web.access import ADMINS, ENGINEERS, may, roles
from ui.web.blob_pool import reads_blobs
from ui.web.sessions import Person, Requires

RATERS = roles("rater", "engineer")
Rater = Annotated[Person, Requires(RATERS, "judging")]
PAIRS_KEPT = 8
"""Pairs of encoded images kept in memory, so that the second image of a pair is free."""


def study_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/study."""
    routes = APIRouter(prefix="/api/study", tags=["study"])
    encoded = lru_cache(maxsize=PAIRS_KEPT)(lambda *pair: blind_bodies(workspace, *pair))

    @routes.get("")
    def studies(person: Rater) -> dict[str, Any]:
        """This person's open studies, and what else they may do here."""
        with workspace.catalog(read_only=True) as catalog:
            shown = [
                summary(catalog, study, person.name)
                for study in reversed(catalog.studies.list())
                if study.state == "open" and is_for(catalog, study, person.name)
            ]
        return {
            "studies": shown,
            "maker": may(person.roles, ENGINEERS),
            "inviter": may(person.roles, ADMINS),
        }

    @routes.get("/{study_id}/next")
    def next_pair(study_id: str, person: Rater) -> Any:
        """The pair that this person judges next; 204 when there is none left."""
        with workspace.catalog(read_only=True) as catalog:
            study = study_for(catalog, study_id, person.name)
            waiting = left_for(catalog, study, person.name)
            done = len(pairs_answered(catalog, study_id, person.name))
            for showing in waiting:
                images = images_of_pair(catalog, study, showing.pair)
                if images is not None:
                    return described(study, showing, images[1], done, len(waiting))
        return Response(status_code=204)

    @routes.post("/{study_id}/answer")
    def answer(study_id: str, sent: VoteBody, person: Rater) -> dict[str, int]:
        """Store a pair's answers; sending the same pair again changes nothing, unless it corrects."""
        return {"new": cast_votes(workspace, study_id, sent, person.name)}

    @routes.get("/{study_id}/judged")
    def judged(study_id: str, person: Rater) -> dict[str, list[str]]:
        """The pairs that this person has judged, in order, to go back to."""
        with workspace.catalog(read_only=True) as catalog:
            study = study_for(catalog, study_id, person.name)
            return {"tasks": judged_tasks(catalog, study, person.name)}

    @routes.get("/{study_id}/judged/{task}")
    def judged_again(study_id: str, task: str, person: Rater) -> dict[str, Any]:
        """A pair that this person has judged, with the answers."""
        with workspace.catalog(read_only=True) as catalog:
            study = study_for(catalog, study_id, person.name)
            showing, answers = judged_pair(catalog, study, person.name, task)
            images = images_of_pair(catalog, study, showing.pair)
            if images is None:
                raise NotFound("an image of this pair was deleted; go on with the next pair")
            left = len(left_for(catalog, study, person.name))
            done = len(pairs_answered(catalog, study_id, person.name))
            return described(study, showing, images[1], done, left) | {"answers": answers}

    @routes.get("/{study_id}/completion")
    def completion(study_id: str, person: Rater) -> dict[str, Any]:
        """Whether this person has judged everything, and the completion code if so."""
        with workspace.catalog(read_only=True) as catalog:
            study = study_for(catalog, study_id, person.name)
            finished = is_finished(catalog, study, person.name)
        return {"finished": finished, "code": design_of(study).code if finished else ""}

    @routes.get("/{study_id}/pictures/{name}")
    @reads_blobs
    def image(study_id: str, name: str, person: Rater) -> Response:
        """One side's pixels, under a name that is valid for this rater only."""
        with workspace.catalog(read_only=True) as catalog:
            study = study_for(catalog, study_id, person.name)
            pair, role = pair_and_role(plan_of(study, person.name), name)
            images = images_of_pair(catalog, study, pair)
        if images is None:
            raise NotFound("this image was deleted; reload the page for the next pair")
        both = encoded(images[0].sha256, images[1].sha256, pair >= len(study.pairs))
        return Response(
            both[0 if role == "before" else 1], media_type="image/png", headers={"Cache-Control": "no-store"}
        )

    return routes


def summary(catalog: Catalog, study: Study, rater: str) -> dict[str, Any]:
    """A study as its raters may see it."""
    design = design_of(study)
    return {
        "id": study.id,
        "name": study.name,
        "questions": list(design.questions),
        "done": len(pairs_answered(catalog, study.id, rater)),
        "left": len(left_for(catalog, study, rater)),
    }


def described(study: Study, showing: Showing, image: Image, done: int, left: int) -> dict[str, Any]:
    """A pair as its rater may see it."""
    design = design_of(study)
    url = f"/api/study/{study.id}/pictures/"
    return {
        "task": showing.task,
        "prompt": image.prompt,
        "left": url + showing.pictures[showing.left],
        "right": url + showing.pictures[showing.right],
        "questions": list(design.questions),
        "scale": design.scale,
        "done": done,
        "remaining": left,
    }


def pair_and_role(plan: StudyPlan, name: str) -> tuple[int, str]:
    """Pair and role of an image's name. Raises `NotFound` for names that are not this rater's."""
    if name not in plan.by_picture:
        raise NotFound("no such image")
    return plan.by_picture[name]
