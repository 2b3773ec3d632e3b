"""The annotation API: images under leases, drafts, answers, comments, own statistics.

All labels come in here, from the page at /annotate and from simulated annotators alike.
"""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from dataengine.records import Draft, Image, Label, Region, component_threshold_of, now
from pipelines.services.agreement import packed_label_map_of
from pipelines.services.annotation import (
    Annotation,
    comment_on,
    comments_for,
    earlier_answer,
    release_lease,
    renew_leases,
    require_editable,
    save_draft,
    skip_image,
    stand_in_note,
    submit_answer,
    suggesting_detector,
    take_lease,
    tour_is_due,
)
from pipelines.services.detectors import note_on_image
from pipelines.services.inference import segmenter_tools
from pipelines.services.schemas import Short
from storage.catalog import Catalog
from storage.queries.annotation import annotator_day
from storage.workspace import Workspace
from ui.annotate.annotator import Annotator
from ui.annotate.assist import assist_routes
from ui.annotate.gold import opinion_routes
from ui.annotate.own_answers import own_answer_routes
from ui.annotate.schemas import (
    MAX_AHEAD,
    CommentBody,
    CommentRow,
    Done,
    DraftBody,
    Release,
    Renew,
    ShownDraft,
    ShownImage,
    ShownMap,
    ShownRegion,
    Skip,
    Statistics,
    Submitted,
    Task,
)
from ui.annotate.triage import triage_routes
from ui.config import ServerConfig
from ui.web.access import CURATORS, may
from ui.web.errors import ERRORS
from ui.web.sessions import Person


def annotation_routes(workspace: Workspace, settings: ServerConfig) -> APIRouter:
    """The routes under /api/annotate."""
    routes = APIRouter(prefix="/api")
    routes.include_router(lease_routes(workspace, 60 * settings.lease_minutes))
    routes.include_router(answer_routes(workspace))
    routes.include_router(comment_routes(workspace))
    routes.include_router(own_answer_routes(workspace))
    everything = APIRouter()
    everything.include_router(routes)
    everything.include_router(triage_routes(workspace, 60 * settings.lease_minutes))
    everything.include_router(assist_routes(workspace))
    everything.include_router(opinion_routes(workspace))
    return everything


def lease_routes(workspace: Workspace, lease_seconds: float) -> APIRouter:
    """Leasing images."""
    routes = APIRouter(prefix="/annotate", tags=["annotate"], responses=ERRORS)

    @routes.get("/next", response_model=Task, responses={204: {"description": "Nothing waits"}})
    def next_image(
        person: Annotator,
        besides: Annotated[list[Short], Query(max_length=MAX_AHEAD)] = [],  # noqa: B006
        prefer: Short | None = None,
    ) -> Any:
        """The image that this person holds, else the next one, leased; never one of `besides`."""
        with workspace.catalog() as catalog:
            lease = take_lease(catalog, person.name, lease_seconds, set(besides), prefer)
            if lease is None:
                catalog.commit()
                return Response(status_code=204)
            image = catalog.images.get(lease.image_id)
            sender = catalog.queue.sent_by(image.id, lease.round_id)
            task = describe(catalog, image, person, sender, segmenter_tools(catalog))
            earlier = earlier_answer(catalog, image.id, person.name)
            catalog.commit()
        if earlier is not None:
            label, note = earlier
            task |= {"answer": shown_label(workspace, label), "note": note}
        return task | {"lease": lease.id, "expires": lease.expires}

    @routes.post("/renew", response_model=Done)
    def renew(request: Renew, person: Annotator) -> Done:
        """Extend leases while the annotator is active."""
        return Done(lost=renew_leases(workspace, request.leases, person.name, lease_seconds))

    @routes.post("/release")
    def release(request: Release, person: Annotator) -> dict[str, bool]:
        """Give an image back unanswered."""
        return {"released": release_lease(workspace, request.lease, person.name)}

    @routes.get("/previous", response_model=Task, responses={204: {"description": "Nothing before"}})
    def previous(person: Annotator, before: Short | None = None, image: Short | None = None) -> Any:
        """The person's newest answer, the one before that of image `before`, or that of `image`; editable
        until reviewed."""
        with workspace.catalog(read_only=True) as catalog:
            mine = newest_each(catalog.labels.by(person.name))
            mine = [label for label in mine if image in (None, label.image_id)]
            places = [place for place, label in enumerate(mine) if label.image_id == before]
            earlier = mine[: places[0]] if places else mine
            if not earlier:
                return Response(status_code=204)
            label = earlier[-1]
            require_editable(catalog, label.image_id, person.name)
            found = catalog.images.get(label.image_id)
            verdicts = [one for one in catalog.reviews.of_image(found.id) if one.author == person.name]
            task = describe(catalog, found, person, label.detector_id, segmenter_tools(catalog))
        note = verdicts[-1].note if verdicts else ""
        return task | {"lease": None, "expires": None, "answer": shown_label(workspace, label), "note": note}

    @routes.get("/mine", response_model=Statistics)
    def mine(person: Annotator) -> Statistics:
        """The person's own numbers."""
        with workspace.catalog(read_only=True) as catalog:
            remaining, today = day_of(catalog, person.name)
            labels = newest_each(catalog.labels.by(person.name))
            due = tour_is_due(catalog, person.name)
        times = sorted(label.lead_seconds for label in labels if label.lead_seconds)
        return Statistics(
            remaining=remaining,
            done_today=today,
            done_ever=len(labels),
            seconds_today=sum(one.lead_seconds for one in labels if one.created >= start_of_today()),
            median_seconds=times[len(times) // 2] if times else 0.0,
            tour_due=due,
        )

    return routes


def answer_routes(workspace: Workspace) -> APIRouter:
    """Drafts, answers and skips."""
    routes = APIRouter(prefix="/annotate", tags=["annotate"], responses=ERRORS)

    @routes.post("/submit", response_model=Submitted)
    def submit(answer: Annotation, person: Annotator) -> Submitted:
        """Store an answer. On an expired lease it is stored as another opinion."""
        return Submitted(revision=submit_answer(workspace, answer, person.name).revision)

    @routes.post("/draft")
    def draft(body: DraftBody, person: Annotator) -> dict[str, bool]:
        """Save unfinished work, which other machines can then resume."""
        save_draft(workspace, body.image, body.label_map, body.seconds, person.name, body.regions)
        return {"saved": True}

    @routes.post("/skip")
    def skip(request: Skip, person: Annotator) -> dict[str, bool]:
        """Decline an image, which goes to another annotator."""
        skip_image(workspace, request.lease, person.name, request.reason)
        return {"skipped": True}

    return routes


def comment_routes(workspace: Workspace) -> APIRouter:
    """Comments on an image."""
    routes = APIRouter(prefix="/annotate", tags=["annotate"], responses=ERRORS)

    @routes.get("/comments", response_model=list[CommentRow])
    def comments(person: Annotator, image: Short) -> list[dict[str, Any]]:
        """An image's comments that this person may read, oldest first: those of others after an own label."""
        with workspace.catalog(read_only=True) as catalog:
            catalog.images.get(image)
            found = comments_for(catalog, image, person.name, may(person.roles, CURATORS))
        return [
            {"id": one.id, "author": one.author, "text": one.text, "created": one.created} for one in found
        ]

    @routes.post("/comments", response_model=CommentRow)
    def comment(body: CommentBody, person: Annotator) -> dict[str, Any]:
        """Comment on an image; curators reply the same way."""
        made = comment_on(workspace, body.image, person.name, body.text)
        return {"id": made.id, "author": made.author, "text": made.text, "created": made.created}

    return routes


def newest_each(labels: list[Label]) -> list[Label]:
    """The newest of one person's labels of each image, oldest first."""
    newest = {label.image_id: label for label in sorted(labels, key=lambda one: one.revision)}
    return sorted(newest.values(), key=lambda label: label.created)


def day_of(catalog: Catalog, annotator: str) -> tuple[int, int]:
    """How many images wait for this person, and how many they labelled today."""
    day = annotator_day(catalog, annotator, now(), start_of_today())
    return day.remaining, day.done_today


def describe(
    catalog: Catalog, image: Image, person: Person, sender: str | None, tools: list[str]
) -> dict[str, Any]:
    """Everything the page needs about an image except its lease.

    The suggestions are those of detector `sender`, whose map sent the image here (see `suggesting_detector`).
    """
    mine = catalog.labels.latest(image.id, person.name)
    readable = comments_for(catalog, image.id, person.name, may(person.roles, CURATORS))
    remaining, done_today = day_of(catalog, person.name)
    detector = suggesting_detector(catalog, image.id, sender)
    draft = catalog.drafts.get(image.id, person.name)
    url = f"/api/images/{image.id}"
    heat = None
    if detector is not None:
        notes = stand_in_note(catalog, detector, sender), note_on_image(catalog, detector, image.id)
        heat = ShownMap(
            url=f"{url}/map?detector={detector.id}",
            detector=detector.name,
            threshold=component_threshold_of(detector),
            note=" ".join(filter(None, notes)),
        )
    shown_image = ShownImage(
        id=image.id,
        height=image.height,
        width=image.width,
        prompt=image.prompt,
        category=image.category,
        url=f"{url}/pixels",
    )
    return {
        "image": shown_image,
        "map": heat,
        "classes": list(catalog.classes.names()),
        "offered": [one.value for one in catalog.classes.offered()],
        "remaining": remaining,
        "done_today": done_today,
        "revision": mine.revision if mine else 0,
        "draft": shown_draft(draft),
        "comments": len(readable),
        "tools": tools,
    }


def shown_label(workspace: Workspace, label: Label) -> ShownDraft:
    """A stored answer, drawn."""
    packed = packed_label_map_of(workspace, label)
    return shown(packed, label.regions, label.lead_seconds, label.created)


def shown_draft(draft: Draft | None) -> ShownDraft | None:
    return None if draft is None else shown(draft.label_map, draft.regions, draft.seconds, draft.saved)


def shown(packed: bytes, regions: Sequence[Region], seconds: float, saved: float) -> ShownDraft:
    return ShownDraft(
        label_map=base64.b64encode(packed).decode(),
        regions=[ShownRegion(**region._asdict()) for region in regions],
        seconds=seconds,
        saved=saved,
    )


def start_of_today() -> float:
    """This machine's last midnight, in seconds since the epoch."""
    return datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
