"""Export pictures and people's masks as a plain folder that other tools read.

    images/ID.png        the original files; metadata.csv beside them lets `import_folder` and Hugging Face's
                         `imagefolder` read them back
    masks/ID.AUTHOR.png  each person's newest label map: 0 nothing, 1… the classes
    labels.csv           who said what of which image, "clean" included
    coco.json            the same masks as COCO instances: one per class and connected region, RLE with holes

Images pass through one page at a time, so that memory does not grow with their number.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dataengine.errors import InputRefused
from dataengine.masks import LabelMap, by_class, components, encode_coco, regions, unpack_label_map
from dataengine.records import Image, Label, Report, digest, silent
from pipelines.pictures import encode_png
from storage.blobs import writing
from storage.snapshots import EXTENSIONS
from storage.workspace import Workspace

PAGE = 256
IMAGE_COLUMNS = (
    "prompt",
    "seed",
    "category",
    "licence",
    "generator",
    "source",
    "origin",
    "split",
    "group",
    "sha256",
    "height",
    "width",
)
LABEL_COLUMNS = ("image", "mask", "author", "revision", "clean", "source", "lead_seconds", "created")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What was written: the folder, how many images, masks, and COCO annotations."""

    folder: Path
    images: int
    masks: int
    annotations: int


def labelled(
    workspace: Workspace, *, only_labelled: bool = False, **filters: Any
) -> Iterator[tuple[Image, list[Label]]]:
    """Images by id, each with every author's newest label, a page at a time; filters as
    `catalog.images.find`.
    """
    after: str | None = None
    while True:
        with workspace.catalog(read_only=True) as catalog:
            page = catalog.images.find(after=after, limit=PAGE, **filters)
            labels = catalog.labels.of_images([image.id for image in page])
        by_image: dict[str, list[Label]] = {}
        for label in labels:
            by_image.setdefault(label.image_id, []).append(label)
        for image in page:
            if image.id in by_image or not only_labelled:
                yield image, by_image.get(image.id, [])
        if len(page) < PAGE:
            return
        after = page[-1].id


def export_folder(
    workspace: Workspace,
    folder: str | Path,
    *,
    only_labelled: bool = False,
    report: Report = silent,
    **filters: Any,
) -> ExportResult:
    """Write the images that match (active ones unless `status` says otherwise) and their labels to a new
    folder.

    The folder appears when it is complete. Raises `InputRefused` if it exists and is not empty,
    `WorkspaceUnusable` if the disk there is full or read-only.
    """
    target = Path(folder).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputRefused(f"{target} exists already; name a new or empty folder to export to")
    filters = {"status": "active"} | filters
    with workspace.catalog(read_only=True) as catalog:
        total, classes = catalog.images.count(**filters), catalog.classes.names()
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            with _Writer(fresh, workspace, classes) as writer:
                for done, (image, labels) in enumerate(
                    labelled(workspace, only_labelled=only_labelled, **filters)
                ):
                    report(done, total, "exporting")
                    writer.add(image, labels)
            fresh.chmod(0o755)
            fresh.replace(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    report(total, total, "exported")
    return ExportResult(
        folder=target, images=writer.images, masks=writer.masks, annotations=writer.annotations
    )


class _Writer:
    """The open files of one export."""

    def __init__(self, folder: Path, workspace: Workspace, classes: tuple[str, ...]) -> None:
        self._folder = folder
        self._workspace = workspace
        self._classes = classes
        self._open = ExitStack()
        self.images = self.masks = self.annotations = 0

    def __enter__(self) -> "_Writer":
        (self._folder / "images").mkdir()
        (self._folder / "masks").mkdir()
        self._metadata = self._table("images/metadata.csv", ("file_name", *IMAGE_COLUMNS))
        self._labels = self._table("labels.csv", LABEL_COLUMNS)
        self._coco = self._open.enter_context((self._folder / "coco.json").open("w"))
        self._waiting = self._open.enter_context((self._folder / "annotations").open("w+"))
        categories = [{"id": number, "name": name} for number, name in enumerate(self._classes, start=1)]
        self._coco.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            # COCO keeps images and annotations apart, so the annotations waited in a file of their own.
            self._coco.write('],\n"annotations": [')
            self._waiting.seek(0)
            shutil.copyfileobj(self._waiting, self._coco)
            self._coco.write("]}\n")
        self._open.close()
        (self._folder / "annotations").unlink()

    def add(self, image: Image, labels: list[Label]) -> None:
        name = image.id + EXTENSIONS.get(image.media_type, "")
        (self._folder / "images" / name).write_bytes(self._workspace.blobs.get(image.sha256))
        values = {column: getattr(image, column, None) for column in IMAGE_COLUMNS}
        self._metadata.writerow({"file_name": name} | values | {"generator": image.generator_id})
        entry = {"id": self.images + 1, "file_name": name, "height": image.height, "width": image.width}
        _append(self._coco, entry, first=self.images == 0)
        self.images += 1
        for label in labels:
            self._label(image, name, label)

    def _label(self, image: Image, image_name: str, label: Label) -> None:
        mask_name = ""
        if label.label_map is not None:
            packed = self._workspace.blobs.get(label.label_map)
            label_map = unpack_label_map(packed, label.height, label.width)
            mask_name = f"{image.id}.{_file_part(label.author)}.png"
            (self._folder / "masks" / mask_name).write_bytes(encode_png(label_map))
            self.masks += 1
            self._annotate(label_map, label.author)
        values = {column: getattr(label, column, None) for column in LABEL_COLUMNS}
        self._labels.writerow(values | {"image": image_name, "mask": mask_name, "clean": int(label.clean)})

    def _annotate(self, label_map: LabelMap, author: str) -> None:
        for number, mask in by_class(label_map).items():
            numbers, _ = components(mask)
            for region in regions(mask):
                annotation = {
                    "id": self.annotations + 1,
                    "image_id": self.images,
                    "category_id": number,
                    "segmentation": encode_coco(numbers == region.number),
                    "bbox": list(region.box),
                    "area": region.area,
                    "iscrowd": 0,
                    "author": author,
                }
                _append(self._waiting, annotation, first=self.annotations == 0)
                self.annotations += 1

    def _table(self, name: str, columns: tuple[str, ...]) -> "csv.DictWriter[str]":
        file = self._open.enter_context((self._folder / name).open("w", newline="", encoding="utf-8"))
        table = csv.DictWriter(file, columns)
        table.writeheader()
        return table


def _append(file: IO[str], entry: dict[str, Any], first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(entry))


def _file_part(author: str) -> str:
    """The author's name as part of a file name; a digest where it would not be one."""
    return (
        author if author.isascii() and author.replace("-", "").replace("_", "").isalnum() else digest(author)
    )
