"""Agreement between annotators; merging several label maps into one."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from dataengine.curation.agreement import (
    coincidences,
    iou,
    krippendorff_alpha,
    majority,
    pairwise,
    soft_mean,
)
from dataengine.errors import ClinicError, NotFound
from dataengine.masks import LabelMap, PackedMap, quantise, unpack_label_map
from dataengine.records import Label
from storage.queries.labels import labelled_by_several, labels_of, valid_labels
from storage.stores.maps import label_map, packed_label_map
from storage.workspace import Workspace

MAPS_AT_ONCE = 2000


@lru_cache(maxsize=4096)
def _unpacked(workspace: Workspace, sha256: str, height: int, width: int) -> LabelMap:
    found = unpack_label_map(workspace.blobs.get(sha256), height, width)
    found.setflags(write=False)
    return found


def packed_label_map_of(workspace: Workspace, label: Label) -> bytes:
    """A label's map as stored; an empty one for a clean image."""
    return packed_label_map(workspace.blobs, label)


def label_map_of(workspace: Workspace, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image. Small maps are cached."""
    if label.label_map is None or label.height * label.width > 512 * 512:
        return label_map(workspace.blobs, label)
    return _unpacked(workspace, label.label_map, label.height, label.width)


def merged_map(workspace: Workspace, labels: Sequence[Label]) -> LabelMap:
    """The majority of the labels, uint8 HW."""
    return majority([label_map_of(workspace, label) for label in labels])


def merged_labels(workspace: Workspace, image_id: str) -> tuple[LabelMap, int]:
    """The majority of an image's labels that count, uint8 HW, and how many those are. Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        counting = valid_labels(catalog, [image_id]).get(image_id, [])
    if not counting:
        raise NotFound(f"image {image_id!r} has no label that counts; nothing to merge")
    return merged_map(workspace, counting), len(counting)


def merged_opinions(workspace: Workspace, image_id: str, soft: bool = False) -> tuple[LabelMap, int]:
    """The majority of all newest labels of an image, returned ones included, uint8 HW, and their number; with
    `soft` the share of annotators who marked each pixel, 255 for all. Raises `NotFound`.
    """
    with workspace.catalog(read_only=True) as catalog:
        labels = catalog.labels.of_images([catalog.images.get(image_id).id])
    if not labels:
        raise NotFound(f"nobody has labelled image {image_id!r} yet")
    if not soft:
        return merged_map(workspace, labels), len(labels)
    return quantise(soft_mean([label_map_of(workspace, label) for label in labels])), len(labels)


@lru_cache(maxsize=16384)
def _disagreement(workspace: Workspace, maps: tuple[str | None, ...], height: int, width: int) -> float:
    drawn = [
        np.zeros((height, width), np.uint8) if sha256 is None else _unpacked(workspace, sha256, height, width)
        for sha256 in maps
    ]
    return 1.0 - float(np.mean([pair.iou for pair in pairwise(drawn)]))


def disagreements(workspace: Workspace, labels: Mapping[str, Sequence[Label]]) -> dict[str, float]:
    """1 − mean pairwise IoU of people's newest revisions, by image; unreadable maps are skipped.

    Depends only on the maps, so it is cached for each set of maps.
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


def compute_map_statistics(workspace: Workspace) -> None:
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
        labels = labels_of(catalog, labelled_by_several(catalog))
    return agreement_of(workspace, labels)


def agreement_of(workspace: Workspace, labels: Mapping[str, Sequence[Label]]) -> dict[str, Any]:
    """The same over these images, each with several people's labels."""
    with workspace.catalog(read_only=True) as catalog:
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
        "overall": everywhere.figures(),
        "categories": [{"name": name, **tally.figures()} for name, tally in sorted(by_category.items())],
        "people": [{"name": name, **tally.figures()} for name, tally in sorted(by_person.items())],
    }


class Tally:
    """Sums over pairs of opinions."""

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

    def figures(self) -> dict[str, Any]:
        """The figures; None where undefined."""
        return {
            "compared": self.compared,
            "iou": float(np.mean(self.ious)) if self.ious else None,
            "alpha": krippendorff_alpha(self.together),
        }
