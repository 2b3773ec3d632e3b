"""How far people agree: per image, category and person; what label maps hold; gold scores and comments."""

import gzip
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.curation.agreement import coincidences, iou, krippendorff_alpha, pairwise
from dataengine.errors import ClinicError
from dataengine.masks import LabelMap, unpack_label_map
from dataengine.records import Label
from storage.queries import curation
from storage.workspace import Workspace
from ui.access import ACCESS, require
from ui.auth import Person, signed_in
from ui.pictures import label_map

SEEING_PEOPLE = ACCESS["/api/curate/people"]
MAPS_AT_ONCE = 2000
SHOWN_COMMENTS = 50


class Reply(BaseModel):
    """A curator's answer to a comment."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(min_length=1, max_length=128)
    text: str = Field(min_length=1, max_length=2000)


async def seeing_people(person: Annotated[Person, Depends(signed_in)]) -> Person:
    """FastAPI dependency: somebody who may see how individual people do."""
    require(person.roles, SEEING_PEOPLE, "seeing how people agree")
    return person


def agreement_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/people."""
    routes = APIRouter(prefix="/people", dependencies=[Depends(seeing_people)])

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
    def reply(body: Reply, person: Annotated[Person, Depends(seeing_people)]) -> dict[str, str]:
        with workspace.catalog() as catalog:
            catalog.images.get(body.image)
            made = catalog.comments.add(body.image, person.name, body.text)
            catalog.commit()
        return {"id": made.id}

    return routes


@lru_cache(maxsize=4096)
def _unpacked(workspace: Workspace, sha256: str, height: int, width: int) -> LabelMap:
    found = unpack_label_map(workspace.blobs.get(sha256), height, width)
    found.setflags(write=False)
    return found


def label_map_of(workspace: Workspace, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image. Kept in memory while it is small."""
    if label.label_map is None or label.height * label.width > 512 * 512:
        return label_map(workspace, label)
    return _unpacked(workspace, label.label_map, label.height, label.width)


def map_response(shown: LabelMap, **headers: str) -> Response:
    """A label map as the browser takes it: gzipped raw bytes, its size in headers."""
    height, width = shown.shape
    sent = {"Content-Encoding": "gzip", "X-Height": str(height), "X-Width": str(width), **headers}
    body = gzip.compress(np.ascontiguousarray(shown).tobytes(), 4)
    return Response(body, headers=sent, media_type="application/octet-stream")


@lru_cache(maxsize=16384)
def _disagreement(workspace: Workspace, maps: tuple[str | None, ...], height: int, width: int) -> float:
    drawn = [
        np.zeros((height, width), np.uint8) if sha256 is None else _unpacked(workspace, sha256, height, width)
        for sha256 in maps
    ]
    return 1.0 - float(np.mean([pair.iou for pair in pairwise(drawn)]))


def disagreements(workspace: Workspace, labels: Mapping[str, Sequence[Label]]) -> dict[str, float]:
    """1 − mean pairwise IoU of people's newest revisions, by image; unreadable maps are left out.

    It follows from the maps alone, so it is computed once for each set of maps.
    """
    found: dict[str, float] = {}
    for image_id, opinions in labels.items():
        if len(opinions) > 1:
            maps = tuple(sorted((label.label_map for label in opinions), key=lambda sha256: sha256 or ""))
            try:
                found[image_id] = _disagreement(workspace, maps, opinions[0].height, opinions[0].width)
            except ClinicError:
                continue
    return found


def look_into_maps(workspace: Workspace) -> None:
    """Note classes and area of label maps that nobody has looked into, a bounded number at once."""
    with workspace.catalog(read_only=True) as catalog:
        missing = catalog.facts.missing(MAPS_AT_ONCE)
    if not missing:
        return
    facts = [
        (sha256, [int(value) for value in np.unique(found[found > 0])], float(np.mean(found > 0)))
        for sha256, height, width in missing
        for found in [unpack_label_map(workspace.blobs.get(sha256), height, width)]
    ]
    with workspace.catalog() as catalog:
        catalog.facts.add_many(facts)
        catalog.commit()


def agreement_report(workspace: Workspace) -> dict[str, Any]:
    """Pairwise IoU and Krippendorff's alpha over all images with several opinions: by category, by person."""
    with workspace.catalog(read_only=True) as catalog:
        labels = curation.labels_of(catalog, curation.with_several_opinions(catalog))
        images = {image.id: image for image in catalog.images.get_many(labels)}
        classes = len(catalog.classes.names())
    by_category: dict[str, Tally] = {}
    by_person: dict[str, Tally] = {}
    everywhere = Tally(classes)
    for image_id, opinions in labels.items():
        drawn = [(label.author, label_map_of(workspace, label)) for label in opinions]
        category = images[image_id].category or "uncategorised"
        maps = [found for _, found in drawn]
        for tally in (by_category.setdefault(category, Tally(classes)), everywhere):
            tally.add(maps)
        for (first, a), (second, b) in combinations(drawn, 2):
            for person in (first, second):
                by_person.setdefault(person, Tally(classes)).add([a, b])
    return {
        "images": len(labels),
        "overall": everywhere.shown(),
        "categories": [{"name": name, **tally.shown()} for name, tally in sorted(by_category.items())],
        "people": [{"name": name, **tally.shown()} for name, tally in sorted(by_person.items())],
    }


class Tally:
    """Pairs of opinions added up."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.together = np.zeros((classes + 1, classes + 1))
        self.ious: list[float] = []
        self.compared = 0

    def add(self, maps: Sequence[LabelMap]) -> None:
        """Compare the opinions on one image."""
        self.together += coincidences(maps, self.classes)
        self.ious += [iou(first > 0, second > 0) for first, second in combinations(maps, 2)]
        self.compared += 1

    def shown(self) -> dict[str, Any]:
        """Figures for the screen; None where a figure is not defined."""
        return {
            "compared": self.compared,
            "iou": float(np.mean(self.ious)) if self.ious else None,
            "alpha": krippendorff_alpha(self.together),
        }


def gold_report(workspace: Workspace) -> dict[str, Any]:
    """How people did on images whose right answer is known: mean IoU and share of right classes."""
    with workspace.catalog(read_only=True) as catalog:
        gold, scores = catalog.gold.list(), catalog.gold.scores()
    people = sorted({score.author for score in scores})
    return {
        "images": [{"id": one.image_id, "clean": one.clean, "by": one.chosen_by} for one in gold],
        "people": [
            {
                "name": name,
                "answered": len(mine),
                "iou": float(np.mean([score.iou for score in mine])),
                "right_class": float(np.mean([score.right_class for score in mine])),
                "lowest": min(score.iou for score in mine),
            }
            for name in people
            for mine in [[score for score in scores if score.author == name]]
        ],
    }
