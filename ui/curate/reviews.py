"""Reviewing: labels beside the detector's predictions, and the verdicts of curators.

A label is *unreviewed*, *approved* ("accepted"), *returned* ("rejected": its author gets the image again,
with the note) or *replaced* ("corrected": only another label of the image counts). A new revision is
unreviewed. `PublishConfig.labels` sets which of them `publish` takes: all except returned and replaced ones,
or only approved ones.
"""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from dataengine.errors import InputRefused, NotFound
from dataengine.records import Review
from pipelines.services.agreement import disagreements, label_map_of, merged_labels
from pipelines.services.reviews import Verdict, open_for_drawing, review_labels
from pipelines.services.schemas import Name, RequestBody
from storage.queries.images import cards_of
from storage.queries.labels import valid_labels
from storage.queries.reviews import ReviewCursor, page_of_reviews, review_counts
from storage.workspace import Workspace
from ui.annotate.gold import gold_seen
from ui.web.access import CURATORS, may
from ui.web.blob_pool import reads_blobs
from ui.web.images import map_response
from ui.web.sessions import Person, Requires, SignedIn

Judge = Annotated[Person, Requires(CURATORS, "judging labels")]
"""Who may judge labels; engineers, who train on them, only read."""
Text = Annotated[str, Query(min_length=1, max_length=200)]


class Opened(RequestBody):
    """An image to annotate, starting from `author`'s newest map if given."""

    image: Name
    author: Name | None = None


def review_routes(workspace: Workspace) -> APIRouter:
    """/reviews, /labels and /merged."""
    routes = APIRouter()

    @routes.get("/reviews")
    def reviews(
        state: Literal["unreviewed", "approved", "returned", "any"] = "unreviewed",
        author: Text | None = None,
        category: Text | None = None,
        round: Text | None = None,
        by: Literal["people", "anyone"] = "anyone",
        after: Annotated[str | None, Query(max_length=400)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 48,
        *,
        person: SignedIn,
    ) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            people = by == "people"
            rows, last = page_of_reviews(
                catalog, state, author, category, round, cursor(after), limit, people
            )
            counts = review_counts(catalog, author, category, round, people)
            everything = review_counts(catalog)
        labels = [asdict(row) | {"note": note_for(person, row.author, row.note)} for row in rows]
        return {"labels": labels, "after": place(last), "counts": counts, "all": everything}

    @routes.get("/reviews/{image_id}")
    def opinions(image_id: str, person: SignedIn) -> dict[str, Any]:
        return opinions_on(workspace, image_id, person)

    @routes.post("/reviews")
    def decide(body: Verdict, person: Judge) -> dict[str, int]:
        review_labels(workspace, body, person.name)
        return {"judged": len(body.labels)}

    @routes.post("/open")
    def open_in_canvas(body: Opened, person: Judge) -> dict[str, str]:
        open_for_drawing(workspace, body.image, body.author, person.name)
        return {"url": f"/annotate?image={body.image}"}

    @routes.get("/labels/{image_id}")
    @reads_blobs
    def label(
        image_id: str, author: Text, revision: Annotated[int | None, Query(ge=1, le=1_000_000)] = None
    ) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            found = [
                one
                for one in catalog.labels.history(image_id)
                if one.author == author and revision in (None, one.revision)
            ]
        if not found:
            raise NotFound(f"{author!r} has no such label of image {image_id!r}; reload the list")
        return map_response(label_map_of(workspace, found[-1]))

    @routes.get("/merged/{image_id}")
    @reads_blobs
    def merged(image_id: str) -> Response:
        merged_map, opinions = merged_labels(workspace, image_id)
        return map_response(merged_map, **{"X-Opinions": str(opinions)})

    return routes


def note_for(person: Person, author: str, note: str | None) -> str | None:
    """A review's note, which only curators and the label's author read."""
    return note if note is None or person.name == author or may(person.roles, CURATORS) else ""


def shown_review(review: Review | None, person: Person) -> dict[str, Any] | None:
    """A review as this person may read it."""
    if review is None:
        return None
    note = note_for(person, review.author, review.note)
    return {"verdict": review.verdict, "by": review.reviewer, "note": note}


def cursor(after: str | None) -> ReviewCursor | None:
    """The start of a page of labels. Raises `InputRefused`."""
    if after is None:
        return None
    created, _, rest = after.partition(":")
    image_id, separator, author = rest.partition(":")
    try:
        return float(created), image_id, author if separator else ""
    except ValueError:
        raise InputRefused(f"{after!r} is not a valid cursor; reload the list") from None


def place(last: ReviewCursor | None) -> str | None:
    """A cursor as one word."""
    return None if last is None else f"{last[0]!r}:{last[1]}:{last[2]}"


def opinions_on(workspace: Workspace, image_id: str, person: Person) -> dict[str, Any]:
    """Each annotator's newest label of an image, their disagreement, which count, and whether it is gold."""
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
        labels = catalog.labels.of_images([image_id])
        counting = valid_labels(catalog, [image_id]).get(image_id, [])
        verdicts = {(one.author, one.revision): one for one in catalog.reviews.of_image(image_id)}
        gold = gold_seen(catalog, image_id, person)
        [shown] = cards_of(catalog, [image_id])
        detector = catalog.detectors.get(shown.detector_id) if shown.detector_id else None
    predicted = None
    if detector is not None:
        predicted = {
            "detector": detector.id,
            "name": detector.name,
            "map": shown.map_ref is not None,
            "max": shown.max,
        }
    counted = {(label.author, label.revision) for label in counting}
    return {
        "image": image_id,
        "height": image.height,
        "width": image.width,
        "gold": gold,
        "predicted": predicted,
        "disagreement": disagreements(workspace, {image_id: labels}).get(image_id),
        "opinions": [
            {
                "author": label.author,
                "revision": label.revision,
                "clean": label.clean,
                "created": label.created,
                "seconds": label.lead_seconds,
                "regions": [region._asdict() for region in label.regions],
                "counts": (label.author, label.revision) in counted,
                "verdict": shown_review(verdicts.get((label.author, label.revision)), person),
            }
            for label in labels
        ],
    }
