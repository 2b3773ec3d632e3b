"""A snapshot's rows as training examples; pixels and targets are read from the workspace on demand.

Targets by kind: "true", "previous" and "injected" name a packed label map (None: clean), "pseudo" names a
detector's map, "real" has none and is empty.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dataengine.masks import PackedMap, dequantise, unpack_label_map
from dataengine.records import Image, SnapshotItem
from pipelines.runtime.images import read_pixels
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.diagnosis.dataset import Facts, Sample


CACHED = 4096
"""Number of decoded examples cached in memory, if no image is larger than 128 × 128."""


class StoredSamples:
    """Rows of a snapshot as a `dataengine.diagnosis.dataset.Samples`."""

    def __init__(self, workspace: Workspace, items: Sequence[SnapshotItem]) -> None:
        self._workspace = workspace
        self._items = list(items)
        with workspace.catalog(read_only=True) as catalog:
            images = catalog.images.get_many([item.image_id for item in self._items])
            self._classes = catalog.label_map_statistics.classes_of(
                {item.target for item in self._items if item.target is not None and item.kind != "pseudo"}
            )
        self._images = {image.id: image for image in images}
        small = all(image.height * image.width <= 128 * 128 for image in images)
        self._load = lru_cache(maxsize=CACHED)(self._decoded) if small else self._decoded

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, index: int) -> "Sample":
        """The example, decoded."""
        from dataengine.diagnosis.dataset import Sample

        item = self._items[index]
        pixels, target, label_map = self._load(index)
        return Sample(
            image=pixels,
            target=target,
            kind=item.kind,
            category=item.category,
            max_confidence=item.max_confidence,
            weight=item.weight,
            label_map=label_map,
        )

    def facts(self, index: int) -> "Facts":
        """The example's kind, category, sign and classes, without reading pixels."""
        from dataengine.diagnosis.dataset import Facts

        item = self._items[index]
        return Facts(
            kind=item.kind, category=item.category, positive=item.positive, classes=self._classes_of(item)
        )

    def _classes_of(self, item: SnapshotItem) -> tuple[int, ...]:
        """The classes of its label map: from the catalog, or by reading a map without statistics there."""
        if item.target is None or item.kind == "pseudo":
            return ()
        if item.target in self._classes:
            return self._classes[item.target]
        image = self._images[item.image_id]
        packed = PackedMap.from_bytes(self._workspace.blobs.get(item.target), image.height, image.width)
        return tuple(packed.areas)

    def _decoded(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        item = self._items[index]
        image = self._images[item.image_id]
        pixels, label_map = read_pixels(self._workspace, image), label_map_of(self._workspace, item, image)
        if label_map is None:
            return pixels, target_of(self._workspace, item, image), None
        return pixels, (label_map > 0).astype(np.float32), label_map


def label_map_of(workspace: Workspace, item: SnapshotItem, image: Image) -> np.ndarray | None:
    """The label map that an annotator drew, uint8 HW; None if the row has none."""
    if item.target is None or item.kind == "pseudo":
        return None
    return unpack_label_map(workspace.blobs.get(item.target), image.height, image.width)


def target_of(workspace: Workspace, item: SnapshotItem, image: Image) -> np.ndarray:
    """The row's target, float32 HW in [0, 1]."""
    if item.target is None:
        return np.zeros((image.height, image.width), np.float32)
    label_map = label_map_of(workspace, item, image)
    if label_map is None:
        return dequantise(workspace.maps.get(item.target))
    return (label_map > 0).astype(np.float32)
