"""Write a data set for YOLO segmentation: `images/SPLIT/`, `labels/SPLIT/` and `data.yaml`.

A label file has a line for each region of a class, `class x1 y1 x2 y2 …`, with classes from 0 and coordinates
as shares of width and height (see `outlines` for holes and parts). Several people's labels are merged by
majority, as for training. An image without an artifact has an empty file, one without a label is left out.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.curation.agreement import majority
from dataengine.images import decode, encode_png
from dataengine.masks import LabelMap, StoredMap, by_class
from dataengine.records import Image, Label
from pipelines.exchange.outlines import region_polygons
from storage.workspace import Workspace

SPLITS = {"train": "train", "validation": "val", "benchmark": "test"}
"""Our splits by YOLO's names."""
READABLE = (".png", ".jpg", ".webp", ".bmp")
"""Kinds of files that YOLO's tools read; others are written as PNG."""


class YoloFolder:
    """A data set that is written image by image; it is complete after `close`."""

    def __init__(self, folder: Path, workspace: Workspace, classes: Sequence[str], pictures: bool) -> None:
        self._folder, self._workspace, self._write = folder, workspace, pictures
        self.counts: Counter[str] = Counter()
        for kind, split in ((kind, split) for kind in ("images", "labels") for split in SPLITS.values()):
            (folder / kind / split).mkdir(parents=True)
        # Without `path` the folders are looked for beside this file, wherever it is moved.
        lines = [f"{name}: images/{name}" for name in SPLITS.values()]
        names = [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(classes)]
        (folder / "data.yaml").write_text("\n".join([*lines, "names:", *names]) + "\n", encoding="utf-8")

    def add(self, image: Image, name: str, labels: list[Label], drawn: dict[str, StoredMap]) -> None:
        """Write one labelled image and its lines; nothing for one without a label."""
        if not labels:
            return
        split = SPLITS[image.split]
        blank = np.zeros((image.height, image.width), np.uint8)
        maps = [drawn[label.author].unpack() if label.author in drawn else blank for label in labels]
        lines = label_lines(maps[0] if len(maps) == 1 else majority(maps))
        (self._folder / "labels" / split / f"{image.id}.txt").write_text("".join(lines), encoding="ascii")
        self.counts[split] += 1
        if self._write:
            data = self._workspace.blobs.get(image.sha256)
            if not name.endswith(READABLE):
                name, data = f"{image.id}.png", encode_png(decode(data))
            (self._folder / "images" / split / name).write_bytes(data)

    @property
    def losses(self) -> tuple[str, ...]:
        """What training with this folder will lack."""
        return tuple(
            f"no image of split {ours} is labelled, so images/{name} is empty; training with YOLO needs some"
            for ours, name in SPLITS.items()
            if name != "test" and not self.counts[name]
        )

    def close(self) -> None:
        """Every file is complete already."""


def label_lines(label_map: LabelMap) -> list[str]:
    """The lines of one label file, by class and in scan order; none for a label map without an artifact."""
    size = np.array(label_map.shape[::-1])
    return [
        f"{number - 1} " + " ".join(f"{value:.6f}" for value in (polygon / size).ravel()) + "\n"
        for number, mask in by_class(label_map).items()
        for polygon in region_polygons(mask)
    ]
