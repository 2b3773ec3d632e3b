"""How well annotators agree with each other and with gold labels."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from dataengine.curation.agreement import coincidences, iou, krippendorff_alpha, pairwise
from dataengine.errors import ClinicError
from dataengine.masks import LabelMap, PackedMap, unpack_label_map
from dataengine.records import Label
from storage.queries import labels as queries_labels
from storage.stores.maps import label_map
from storage.workspace import Workspace

MAPS_AT_ONCE = 2000
SHOWN_COMMENTS = 50


@lru_cache(maxsize=4096)
def _unpacked(workspace: Workspace, sha256: str, height: int, width: int) -> LabelMap:
    found = unpack_label_map(workspace.blobs.get(sha256), height, width)
    found.setflags(write=False)
    return found


def label_map_of(workspace: Workspace, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image. Kept in memory while it is small."""
    if label.label_map is None or label.height * label.width > 512 * 512:
        return label_map(workspace.blobs, label)
    return _unpacked(workspace, label.label_map, label.height, label.width)


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
    """Store statistics of label maps that have none (of older labels), a bounded number at once."""
    with workspace.catalog(read_only=True) as catalog:
        missing = catalog.label_map_statistics.missing(MAPS_AT_ONCE)
    if not missing:
        return
    maps = [
        (sha256, PackedMap.from_bytes(workspace.blobs.get(sha256), height, width))
        for sha256, height, width in missing
    ]
    with workspace.catalog() as catalog:
        catalog.label_map_statistics.add_many(maps)
        catalog.commit()


def agreement_report(workspace: Workspace) -> dict[str, Any]:
    """Pairwise IoU and Krippendorff's alpha over all images with several opinions: by category, by person."""
    with workspace.catalog(read_only=True) as catalog:
        labels = queries_labels.labels_of(catalog, queries_labels.with_several_opinions(catalog))
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
