"""The API of the curation desk at /curate.

Images are paged by cursor; filters are query parameters, so that a link keeps them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import JSONResponse

from dataengine.errors import InputRefused
from dataengine.records import Image, threshold_of
from pipelines.selections.config import ImageQuery
from pipelines.services.agreement import compute_map_statistics, disagreements
from pipelines.services.annotation import comments_for
from pipelines.services.detectors import note_on_image
from pipelines.services.images.views import list_views
from storage.catalog import Catalog
from storage.queries import labels as label_queries
from storage.queries.facets import facet_counts, left_out
from storage.queries.images import (
    COUNT_LIMIT,
    Cursor,
    ImageFilter,
    Order,
    cards_of,
    champion_id,
    conditions_of,
    count_of_images,
    page_of_images,
    unranked,
)
from storage.queries.reviews import newest_labelled_round
from storage.workspace import Workspace
from ui.annotate.gold import gold_seen
from ui.curate.agreement import agreement_routes
from ui.curate.benchmarks import benchmark_routes
from ui.curate.cards import card
from ui.curate.categories import category_routes
from ui.curate.pilots import pilot_routes
from ui.curate.repairs import repair_routes
from ui.curate.reviews import review_routes, shown_review
from ui.curate.selections import selection_routes
from ui.curate.similar import similar_routes
from ui.curate.views import view_routes
from ui.curate.work import work_routes
from ui.web.access import CURATORS, ENGINEERS, may, roles
from ui.web.sessions import Person, Requires

READERS = roles("curator", "engineer")
CURATING = Requires(READERS, "curating")
Reader = Annotated[Person, CURATING]
UNRANKED = "-:"
"""What the cursor of an image begins with that the order does not rank."""


class Wanted(ImageQuery):
    """The filter of a page as query parameters, its order and its place."""

    sort: Literal["uncertainty", "max", "disagreement", "newest", "oldest"] | None = None
    """By default the most uncertain first; what a search finds, the newest first."""
    after: str | None = Field(default=None, max_length=300)
    limit: int = Field(default=48, ge=1, le=200)

    def page_filter(self) -> ImageFilter:
        """The filter as the catalog takes it, in the page's order."""
        default: Order = "newest" if self.search else "uncertainty"
        return self.filter(default if self.sort is None or self.sort == "disagreement" else self.sort)

    def cursor(self) -> Cursor | None:
        """The start of the page. Raises `InputRefused`."""
        if self.after is None:
            return None
        unranked = self.after.startswith(UNRANKED)
        value, separator, image_id = self.after.removeprefix(UNRANKED).partition(":")
        try:
            return Cursor(float(value), image_id if separator else "", unranked)
        except ValueError:
            raise InputRefused(f"{self.after!r} is not a valid cursor; reload the list") from None


FilterQuery = Annotated[Wanted, Query()]


def curate_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate."""
    routes = APIRouter(prefix="/api/curate", dependencies=[CURATING])
    for more in (
        *(category_routes, review_routes, benchmark_routes, agreement_routes, repair_routes),
        *(selection_routes, view_routes, pilot_routes, work_routes),
    ):
        routes.include_router(more(workspace))
    routes.include_router(similar_routes(workspace))

    @routes.get("/choices")
    def choices(person: Reader) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return all_choices(catalog) | {
                "views": list_views(catalog, person.name),
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
        with workspace.catalog(read_only=True) as catalog:
            found = count_of_images(catalog, wanted.page_filter())
            total = count_of_images(catalog)
            hidden = left_out(catalog)
        more = {"more": found >= COUNT_LIMIT, "total_more": total >= COUNT_LIMIT}
        return {"count": found, "total": total, "hidden": hidden, **more}

    @routes.get("/facets")
    def facets(wanted: FilterQuery) -> dict[str, dict[str, int | None]]:
        with workspace.catalog(read_only=True) as catalog:
            return facet_counts(catalog, wanted.page_filter())

    @routes.get("/images/{image_id}")
    def image(image_id: str, person: Reader) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            known = image_detail(catalog, catalog.images.get(image_id), person)
            return known | {"gold": gold_seen(catalog, image_id, person)}

    return routes


def all_choices(catalog: Catalog) -> dict[str, Any]:
    """The choices of filters and forms."""
    champion = catalog.detectors.champion()
    people = [user.name for user in catalog.users.list() if {"annotator", "curator"} & set(user.roles)]
    known = asdict(label_queries.choices(catalog))
    return known | {
        "generators": [
            {"id": id, "name": name} for id, name in names_of(catalog, known["generators"]).items()
        ],
        "tags": list(catalog.tags.counts()),
        "newest_round": newest_labelled_round(catalog),
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


def names_of(catalog: Catalog, generators: Sequence[str]) -> dict[str, str]:
    """The names of generators by id; of several with one name each with the beginning of its id."""
    known = {one.id: one.name for one in catalog.generators.list()}
    names = {id: known.get(id, id) for id in generators}
    shared = {name for name, times in Counter(names.values()).items() if times > 1}
    return {id: f"{name} ({id[:6]})" if name in shared else name for id, name in names.items()}


def place(cursor: Cursor | None) -> str | None:
    """A cursor as one word."""
    return None if cursor is None else f"{UNRANKED * cursor.unranked}{cursor.key!r}:{cursor.image_id}"


def disputed(workspace: Workspace, wanted: Wanted) -> list[tuple[float, str]]:
    """(disagreement, image) of all images with several opinions within the filter, the highest first."""
    with workspace.catalog(read_only=True) as catalog:
        conditions = conditions_of(catalog, wanted.page_filter())
        found = label_queries.labelled_by_several(catalog, conditions)
        labels = label_queries.labels_of(catalog, found)
    return sorted(((value, id) for id, value in disagreements(workspace, labels).items()), reverse=True)


def one_page(workspace: Workspace, wanted: Wanted) -> dict[str, Any]:
    """A page in the order of a stored value."""
    with workspace.catalog(read_only=True) as catalog:
        page = page_of_images(catalog, wanted.page_filter(), wanted.cursor(), wanted.limit)
        tags = catalog.tags.of([one.id for one in page.cards])
    return {"cards": [card(one, tags) for one in page.cards], "after": place(page.after)}


def most_disputed(workspace: Workspace, wanted: Wanted) -> dict[str, Any]:
    """A page by disagreement between people, 1 − mean pairwise IoU of their newest revisions; images with
    fewer than two labels follow, newest first."""
    after, values = wanted.cursor(), disputed(workspace, wanted)
    ranked = [one for one in values if after is None or one < after[:2]]
    keys = [Cursor(*one) for one in ranked] if after is None or not after.unranked else []
    keys = keys[: wanted.limit + 1]
    disagreement = {id: value for value, id in values}
    with workspace.catalog(read_only=True) as catalog:
        if len(keys) <= wanted.limit:
            start = after if after is not None and after.unranked else None
            several, room = label_queries.with_several_labels(), wanted.limit + 1 - len(keys)
            keys += unranked(catalog, wanted.page_filter(), several, start, room)
        shown = keys[: wanted.limit]
        cards = cards_of(catalog, [one.image_id for one in shown], wanted.detector)
        tags = catalog.tags.of([one.id for one in cards])
    last = shown[-1] if len(keys) > len(shown) else None
    shares = {one.id: {"disagreement": disagreement[one.id]} for one in cards if one.id in disagreement}
    return {"cards": [card(one, tags, **shares.get(one.id, {})) for one in cards], "after": place(last)}


def image_detail(catalog: Catalog, image: Image, person: Person) -> dict[str, Any]:
    """An image's metadata, predictions, labels, reviews, comments, and the snapshots that contain it.

    Only curators read the notes of reviews, and all comments.
    """
    curating = may(person.roles, CURATORS)
    [shown_card] = cards_of(catalog, [image.id])
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
        "detectors": detectors_on(catalog, image.id),
        "detector": shown_card.detector_id,
        "predictions": [
            {
                "detector": detector.name,
                "detector_id": detector.id,
                "map": one.map_ref is not None,
                "max": one.max,
                "mean": one.mean,
                "uncertainty": one.uncertainty,
                "note": note_on_image(catalog, detector, image.id),
            }
            for detector, one in predictions
        ],
        "generator": names_of(catalog, [image.generator_id])[image.generator_id]
        if image.generator_id
        else None,
        "tags": catalog.tags.of([image.id]).get(image.id, ()),
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


def detectors_on(catalog: Catalog, image_id: str) -> list[dict[str, Any]]:
    """Every detector that can be chosen or has looked at the image, the champion first, then the newest: its
    verdict, or that it has not looked."""
    champion, offered = champion_id(catalog), {one.id for one in catalog.detectors.offered()}
    shown = []
    for detector in reversed(catalog.detectors.list()):
        found = catalog.predictions.get(image_id, detector.id)
        if found is None and detector.id not in offered:
            continue
        shown.append(
            {
                "id": detector.id,
                "name": detector.name,
                "champion": detector.id == champion,
                "looked": found is not None,
                "max": found and found.max,
                "threshold": threshold_of(detector),
            }
        )
    return sorted(shown, key=lambda one: not one["champion"])
