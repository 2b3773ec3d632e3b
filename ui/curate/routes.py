"""The API of the curation desk at /curate.

Images are paged by cursor; filters are query parameters, so that a link keeps them.
"""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import JSONResponse

from dataengine.errors import InputRefused, NotFound
from dataengine.records import Image
from pipelines.selections.config import ImageQuery
from pipelines.services import jobs
from pipelines.services.agreement import compute_map_statistics, disagreements
from pipelines.services.annotation import comments_for
from pipelines.services.detectors import note_on_image
from storage.catalog import Catalog
from storage.queries import labels as label_queries
from storage.queries.images import (
    COUNT_LIMIT,
    Cursor,
    ImageCard,
    ImageFilter,
    cards_of,
    champion_id,
    count_of_images,
    matching,
    page_of_images,
)
from storage.workspace import Workspace
from ui.annotate.gold import gold_seen
from ui.curate.agreement import agreement_routes
from ui.curate.benchmarks import benchmark_routes
from ui.curate.categories import category_routes
from ui.curate.repairs import repair_routes
from ui.curate.reviews import review_routes, shown_review
from ui.curate.work import work_routes
from ui.web.access import CURATORS, ENGINEERS, may, roles
from ui.web.sessions import Person, Requires

READERS = roles("curator", "engineer")
CURATING = Requires(READERS, "curating")
Reader = Annotated[Person, CURATING]
SIMILAR_FROM = 100_000
"""Most images that "more like this" compares; 9.6 MB of vectors."""


class Wanted(ImageQuery):
    """The filter of a page as query parameters, its order and its place."""

    sort: Literal["uncertainty", "max", "disagreement", "newest", "oldest"] = "uncertainty"
    after: str | None = Field(default=None, max_length=300)
    limit: int = Field(default=48, ge=1, le=200)

    def page_filter(self) -> ImageFilter:
        """The filter as the catalog takes it, in the page's order."""
        return self.filter("uncertainty" if self.sort == "disagreement" else self.sort)

    def cursor(self) -> Cursor | None:
        """The start of the page. Raises `InputRefused`."""
        if self.after is None:
            return None
        value, separator, image_id = self.after.partition(":")
        try:
            return float(value), image_id if separator else ""
        except ValueError:
            raise InputRefused(f"{self.after!r} is not a valid cursor; reload the list") from None


FilterQuery = Annotated[Wanted, Query()]


def curate_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate."""
    routes = APIRouter(prefix="/api/curate", dependencies=[CURATING])
    parts = (category_routes, review_routes, benchmark_routes, agreement_routes, repair_routes, work_routes)
    for more in parts:
        routes.include_router(more(workspace))

    @routes.get("/choices")
    def choices(person: Reader) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return all_choices(catalog) | {
                "may_judge": may(person.roles, CURATORS),
                "may_compare": may(person.roles, ENGINEERS),
            }

    @routes.get("/images")
    def images(wanted: FilterQuery) -> JSONResponse:
        if wanted.label_class is not None:
            compute_map_statistics(workspace)
        # A ready response, because FastAPI would validate every value of every card.
        return JSONResponse(
            most_disputed(workspace, wanted) if wanted.sort == "disagreement" else one_page(workspace, wanted)
        )

    @routes.get("/count")
    def count(wanted: FilterQuery) -> dict[str, Any]:
        if wanted.sort == "disagreement":
            return {"count": len(disputed(workspace, wanted)), "more": False}
        with workspace.catalog(read_only=True) as catalog:
            found = count_of_images(catalog, wanted.page_filter())
        return {"count": found, "more": found >= COUNT_LIMIT}

    @routes.get("/images/{image_id}")
    def image(image_id: str, person: Reader) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            known = image_detail(catalog, catalog.images.get(image_id), person)
            return known | {"gold": gold_seen(catalog, image_id, person)}

    @routes.get("/similar/{image_id}")
    def similar(image_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 47) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return more_like(catalog, catalog.images.get(image_id), limit)

    @routes.post("/features")
    def features(person: Reader) -> dict[str, str]:
        job = jobs.request_job(workspace, "features", {}, person.name)
        return {"job": job.id}

    return routes


def all_choices(catalog: Catalog) -> dict[str, Any]:
    """The choices of filters and forms."""
    champion = catalog.detectors.champion()
    people = [user.name for user in catalog.users.list() if {"annotator", "curator"} & set(user.roles)]
    return asdict(label_queries.choices(catalog)) | {
        "detectors": [
            {
                "id": one.id,
                "name": one.name,
                "champion": champion is not None and one.id == champion.id,
                "role": one.role,
                "looked": catalog.predictions.any_of(one.id),
            }
            for one in reversed(catalog.detectors.offered())
        ],
        "classes": list(catalog.classes.names()),
        "images": catalog.images.count(),
        "annotators": people,
        "folders": [{"id": one.id, "name": one.name} for one in catalog.endpoints.of_kind("folder")],
        "open_rounds": [one.id for one in catalog.rounds.list() if one.state in ("running", "waiting")],
    }


def card(found: ImageCard, **more: Any) -> dict[str, Any]:
    """A card as the grid shows it; pixels and maps are fetched from /api/images."""
    return {
        "id": found.id,
        "prompt": found.prompt,
        "category": found.category,
        "source": found.source,
        "split": found.split,
        "generator": found.generator_id,
        "height": found.height,
        "width": found.width,
        "round": found.round_id,
        "max": found.max,
        "uncertainty": found.uncertainty,
        "map": found.map_ref is not None,
        "labelled": found.labelled,
        **more,
    }


def place(cursor: Cursor | None) -> str | None:
    """A cursor as one word."""
    return None if cursor is None else f"{cursor[0]!r}:{cursor[1]}"


def disputed(workspace: Workspace, wanted: Wanted) -> list[tuple[float, str]]:
    """(disagreement, image) of all images with several opinions within the filter, the highest first."""
    filter = wanted.page_filter()
    with workspace.catalog(read_only=True) as catalog:
        found = label_queries.labelled_by_several(catalog, matching(filter))
        labels = label_queries.labels_of(catalog, found)
        detector = filter.detector_id or champion_id(catalog)
        if filter.bounded:
            cards = cards_of(catalog, found, detector)
            inside = {one.id for one in cards if one.max is not None and wanted.low <= one.max <= wanted.high}
            labels = {id: opinions for id, opinions in labels.items() if id in inside}
    return sorted(((value, id) for id, value in disagreements(workspace, labels).items()), reverse=True)


def one_page(workspace: Workspace, wanted: Wanted) -> dict[str, Any]:
    """A page in the order of a stored value."""
    with workspace.catalog(read_only=True) as catalog:
        page = page_of_images(catalog, wanted.page_filter(), wanted.cursor(), wanted.limit)
    return {"cards": list(map(card, page.cards)), "after": place(page.after)}


def most_disputed(workspace: Workspace, wanted: Wanted) -> dict[str, Any]:
    """A page by disagreement between people: 1 − mean pairwise IoU of their newest revisions."""
    after, values = wanted.cursor(), disputed(workspace, wanted)
    rest = [one for one in values if after is None or one < after]
    shown = rest[: wanted.limit]
    with workspace.catalog(read_only=True) as catalog:
        detector = wanted.detector or champion_id(catalog)
        cards = cards_of(catalog, [id for _, id in shown], detector)
    value_of = {id: value for value, id in shown}
    last = shown[-1] if len(rest) > len(shown) else None
    return {"cards": [card(one, disagreement=value_of[one.id]) for one in cards], "after": place(last)}


def image_detail(catalog: Catalog, image: Image, person: Person) -> dict[str, Any]:
    """An image's metadata, predictions, labels, reviews, comments, and the snapshots that contain it.

    Only curators read the notes of reviews, and all comments.
    """
    curating = may(person.roles, CURATORS)
    verdicts = {(one.author, one.revision): one for one in catalog.reviews.of_image(image.id)}
    known = asdict(image)
    shown = ("id", "prompt", "category", "source", "origin", "licence", "split", "generator_id", "seed")
    predictions = [
        (detector, found)
        for detector in catalog.detectors.list()
        if (found := catalog.predictions.get(image.id, detector.id)) is not None
    ]
    return {
        **{name: known[name] for name in (*shown, "round_id", "height", "width", "created", "settings")},
        "predictions": [
            {
                "detector": detector.name,
                "max": one.max,
                "mean": one.mean,
                "uncertainty": one.uncertainty,
                "note": note_on_image(catalog, detector, image.id),
            }
            for detector, one in predictions
        ],
        "answers": [asdict(answer) for answer in catalog.images.answers(image.id)],
        "labels": [
            {
                "author": label.author,
                "revision": label.revision,
                "clean": label.clean,
                "seconds": label.lead_seconds,
                "source": label.source,
                "created": label.created,
                "review": shown_review(verdicts.get((label.author, label.revision)), person),
            }
            for label in sorted(catalog.labels.history(image.id), key=lambda label: -label.created)
        ],
        "comments": [asdict(one) for one in comments_for(catalog, image.id, person.name, curating)],
        "takers": list(catalog.assignees.of([image.id]).get(image.id, ())),
        "snapshots": [one.id for one in catalog.snapshots.containing(image.id)],
    }


def more_like(catalog: Catalog, image: Image, limit: int) -> dict[str, Any]:
    """Images by cosine similarity of detector features, the most similar first.

    Raises `NotFound`, saying what to do, while the image's features are not computed.
    """
    detector = champion_id(catalog)
    mine = None if detector is None else catalog.features.get(detector, image.id)
    if detector is None or mine is None:
        raise NotFound(
            "this image is not in the champion's similarity index yet; press “Build similarity index” and "
            "try again once that job (Rounds → Jobs and workers) has finished"
        )
    ids, vectors = catalog.features.of(detector, SIMILAR_FROM)
    closeness = cosine(vectors, mine)
    order = np.argsort(-closeness)[: limit + 1]
    near = [(ids[int(i)], float(closeness[i])) for i in order if ids[int(i)] != image.id][:limit]
    by_id = dict(near)
    cards = cards_of(catalog, [id for id, _ in near], detector)
    return {"cards": [card(one, similarity=by_id[one.id]) for one in cards], "compared": len(ids)}


def cosine(vectors: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Cosine of every row of int8 N×D with one int8 D, float32 N; 0 for a zero vector."""
    rows, wanted = vectors.astype(np.float32), one.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
    return np.divide(rows @ wanted, lengths, out=np.zeros(len(rows), np.float32), where=lengths > 0)
