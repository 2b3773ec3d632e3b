"""Export images and human masks to files that other tools read.

    folder        images/, masks/, labels.csv, coco.json: everything; `imagefolder` and our import read it
    masks         images/ID.png (the originals, with metadata.csv), masks/ID.AUTHOR.png, labels.csv
    coco          images/ and coco.json: one RLE with holes for each author, class and connected region
    fiftyone      data/ and labels.json, as FiftyOne's COCODetectionDataset reads them
    label-studio  images/, tasks.json with brush annotations and label_config.xml for its project
    yolo          images/, labels/ with polygons by split, data.yaml: labelled images only
    hf            Parquet shards with a dataset card; `datasets.load_dataset` opens the folder
    predictions   predictions.csv: every detector's prediction for each image

Images are read one page at a time, so that memory does not grow with their number.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from dataengine import durable
from dataengine.csv_files import CsvTable
from dataengine.defects import region_payload
from dataengine.errors import InputRefused
from dataengine.images import encode_png
from dataengine.masks import StoredMap
from dataengine.records import COLLECTED, REPAIRED, Image, Label, Report, digest, no_report, threshold_of
from pipelines.exchange.writers.coco import CocoFile
from pipelines.exchange.writers.label_studio import TaskFile
from pipelines.exchange.writers.yolo import YoloFolder
from pipelines.selections.config import ImageQuery
from pipelines.selections.pages import iter_pages, selected
from storage.stores.blobs import writing
from storage.stores.snapshots import EXTENSIONS
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
LABEL_COLUMNS = (
    "image",
    "mask",
    "author",
    "revision",
    "clean",
    "source",
    "lead_seconds",
    "created",
    "regions",
)
PREDICTION_COLUMNS = ("image", "detector", "max", "mean", "uncertainty", "created")
FLAG_COLUMNS = ("threshold", "flagged")
"""The detector's operating point, and whether the image reaches it: 1 or 0."""

Drawn = dict[str, StoredMap]
"""Label maps by author, unpacked by the parts that need pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """The folder, the numbers of images, masks and COCO annotations, and what the format does not contain."""

    folder: Path
    images: int
    masks: int
    annotations: int
    losses: tuple[str, ...] = ()


class Part(Protocol):
    """One kind of output file, written image by image."""

    def add(self, image: Image, name: str, labels: list[Label], drawn: Drawn) -> None: ...
    def close(self) -> None: ...


def find_pages(workspace: Workspace, **filters: Any) -> Iterator[list[Image]]:
    """Images by id, a page at a time; filters as `catalog.images.find`."""
    after: str | None = None
    while True:
        with workspace.catalog(read_only=True) as catalog:
            page = catalog.images.find(after=after, limit=PAGE, **filters)
        yield page
        if len(page) < PAGE:
            return
        after = page[-1].id


def iter_labelled_images(
    workspace: Workspace, pages: Iterable[list[Image]], only_labelled: bool = False
) -> Iterator[tuple[Image, list[Label]]]:
    """The images of these pages, each with every author's newest label."""
    for page in pages:
        with workspace.catalog(read_only=True) as catalog:
            labels = catalog.labels.of_images([image.id for image in page])
        by_image: dict[str, list[Label]] = {}
        for label in labels:
            by_image.setdefault(label.image_id, []).append(label)
        for image in page:
            if image.id in by_image or not only_labelled:
                yield image, by_image.get(image.id, [])


def snapshot_rows(workspace: Workspace, snapshot_id: str) -> tuple[list[tuple[Image, list[Label]]], int]:
    """A snapshot's images with their targets as labels, and the number of rows with a confidence map
    instead."""
    items = workspace.snapshots.present(workspace.snapshots.read(snapshot_id))
    with workspace.catalog(read_only=True) as catalog:
        images = {one.id: one for one in catalog.images.get_many(sorted({i.image_id for i in items}))}
    rows: dict[str, list[Label]] = {}
    maps = 0
    for item in items:
        labels = rows.setdefault(item.image_id, [])
        if item.target is not None and ":" in item.target:
            maps += 1
            continue
        image = images[item.image_id]
        labels.append(
            Label(
                image_id=image.id,
                author=item.author or item.kind,
                height=image.height,
                width=image.width,
                label_map=item.target,
                clean=item.target is None,
            )
        )
    return [(images[key], rows[key]) for key in sorted(rows)], maps


def export_folder(
    workspace: Workspace,
    folder: str | Path,
    *,
    format: str = "folder",
    only_labelled: bool = False,
    snapshot: str | None = None,
    selection: ImageQuery | None = None,
    pictures: bool = True,
    report: Report = no_report,
    **filters: Any,
) -> ExportResult:
    """Write the matching images (by default active ones), those of a selection or of a snapshot, and their
    labels to a new folder; without `pictures`, metadata and labels only. Injected artifacts are written only
    if `source` names them.

    The folder appears when it is complete. Raises `InputRefused` if it exists and is not empty or the format
    is unknown, `NotFound` for an empty selection, `WorkspaceUnusable` if the disk is full or read-only.
    """
    if format not in PARTS:
        raise InputRefused(f"there is no format {format!r}; formats are {', '.join([*PARTS, 'hf'])}")
    if selection is not None:
        conditions, total = selected(workspace, selection)
        pages = iter_pages(workspace, conditions, PAGE)
    else:
        filters = {"status": "active", "source": (*COLLECTED, REPAIRED)} | filters
        with workspace.catalog(read_only=True) as catalog:
            total = catalog.images.count(**filters)
        pages = find_pages(workspace, **filters)
    rows: Iterable[tuple[Image, list[Label]]] = iter_labelled_images(workspace, pages, only_labelled)
    losses: tuple[str, ...] = LOSSES.get(format, ())
    if snapshot is not None:
        rows, maps = snapshot_rows(workspace, snapshot)
        total = len(rows)
        losses += (f"{maps} confidence maps of pseudo-labels are not in this format; hf has them",) * bool(
            maps
        )
    with NewFolder(folder) as fresh:
        writer = _Writer(fresh, workspace, format, pictures)
        try:
            for done, (image, labels) in enumerate(rows):
                report(done, total, "exporting")
                if labels or format not in LABELLED_ONLY:
                    writer.add(image, labels)
        finally:
            writer.close()
    report(total, total, "exported")
    return ExportResult(
        folder=Path(folder).absolute(),
        images=writer.images,
        masks=writer.masks,
        annotations=writer.annotations,
        losses=losses + writer.losses,
    )


class NewFolder:
    """A folder that appears under its name if the block succeeds, and not at all otherwise."""

    def __init__(self, folder: str | Path) -> None:
        self.target = Path(folder).absolute()

    def __enter__(self) -> Path:
        target = self.target
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputRefused(f"{target} exists already; name a new or empty folder to export to")
        self._guard = writing(target.parent)
        self._guard.__enter__()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        return self._fresh

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        try:
            if kind is None:
                durable.move(self._fresh, self.target)
        finally:
            shutil.rmtree(self._fresh, ignore_errors=True)
            swallowed = self._guard.__exit__(kind, error, trace)
        return swallowed


class _Tables:
    """CSV files, closed together."""

    def __init__(self) -> None:
        self._files: list[Any] = []

    def table(self, path: Path, columns: tuple[str, ...]) -> CsvTable:
        file = path.open("w", newline="", encoding="utf-8")
        self._files.append(file)
        return CsvTable(file, columns)

    def close(self) -> None:
        for file in self._files:
            file.close()


class _Pictures(_Tables):
    """The original image files and a table of their metadata."""

    def __init__(self, folder: Path, workspace: Workspace, write: bool) -> None:
        super().__init__()
        self._folder, self._workspace, self._write = folder, workspace, write
        folder.mkdir()
        self._metadata = self.table(folder / "metadata.csv", ("file_name", *IMAGE_COLUMNS))

    def add(self, image: Image, name: str, labels: list[Label], drawn: Drawn) -> None:
        if self._write:
            (self._folder / name).write_bytes(self._workspace.blobs.get(image.sha256))
        values = {column: getattr(image, column, None) for column in IMAGE_COLUMNS}
        self._metadata.add({"file_name": name} | values | {"generator": image.generator_id})


class _Masks(_Tables):
    """A PNG for each author's label map, and the table of all labels."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder / "masks"
        self._folder.mkdir()
        self._labels = self.table(folder / "labels.csv", LABEL_COLUMNS)

    def add(self, image: Image, name: str, labels: list[Label], drawn: Drawn) -> None:
        for label in labels:
            mask = f"{image.id}.{_file_part(label.author)}.png" if label.author in drawn else ""
            if mask:
                (self._folder / mask).write_bytes(encode_png(drawn[label.author].unpack()))
            values = {column: getattr(label, column, None) for column in LABEL_COLUMNS}
            regions = json.dumps(list(map(region_payload, label.regions))) if label.regions else ""
            own = {"image": name, "mask": mask, "clean": int(label.clean), "regions": regions}
            self._labels.add(values | own)


class _Coco:
    """A COCO file."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.file = CocoFile(path, classes)

    def add(self, image: Image, name: str, labels: list[Label], drawn: Drawn) -> None:
        clean_by = [label.author for label in labels if label.clean]
        self.file.add(image, name, drawn, clean_by, {label.author: label.regions for label in labels})

    def close(self) -> None:
        self.file.close()


class _Predictions(_Tables):
    """Every detector's prediction for each image."""

    def __init__(self, folder: Path, workspace: Workspace) -> None:
        super().__init__()
        self._workspace = workspace
        self._rows = self.table(
            folder / "predictions.csv", (*PREDICTION_COLUMNS, *IMAGE_COLUMNS, *FLAG_COLUMNS)
        )
        self._waiting: list[Image] = []

    def add(self, image: Image, name: str, labels: list[Label], drawn: Drawn) -> None:
        self._waiting.append(image)
        if len(self._waiting) == PAGE:
            self._write()

    def _write(self) -> None:
        images = {image.id: image for image in self._waiting}
        with self._workspace.catalog(read_only=True) as catalog:
            for detector in catalog.detectors.list():
                threshold = threshold_of(detector)
                for one in catalog.predictions.of(detector.id, images):
                    payload = asdict(one) | {"image": one.image_id, "detector": one.detector_id}
                    row = {column: getattr(images[one.image_id], column, None) for column in IMAGE_COLUMNS}
                    row |= {column: payload[column] for column in PREDICTION_COLUMNS}
                    row |= {"threshold": threshold, "flagged": int(one.max >= threshold)}
                    self._rows.add(row | {"generator": images[one.image_id].generator_id})
        self._waiting = []

    def close(self) -> None:
        self._write()
        super().close()


PARTS: dict[str, tuple[str, ...]] = {
    "folder": ("images", "masks", "coco"),
    "masks": ("images", "masks"),
    "coco": ("images", "coco"),
    "fiftyone": ("data", "labels"),
    "label-studio": ("images", "tasks"),
    "yolo": ("yolo",),
    "predictions": ("predictions",),
}
LABELLED_ONLY = ("yolo",)
"""Formats in which an image without a label would be one without an artifact."""
LOSSES = {
    "coco": ("label times and older revisions are not in COCO; the format masks has them",),
    "fiftyone": (
        "authors become attributes, and FiftyOne does not distinguish clean from unlabelled images",
    ),
    "label-studio": (
        "images are the original files, which a browser may turn or lay on another ground than the detector; "
        "`clinic push` sends them as they are seen here",
        "Label Studio gives all annotations to the person who loads tasks.json; `clinic import` knows their "
        "authors",
    ),
    "yolo": (
        "unlabelled images are left out, several people's labels are merged by majority, and prompts, seeds, "
        "licences and authors are not in YOLO's files; the format masks has them",
    ),
    "predictions": ("numbers only; maps are not exported",),
}


class _Writer:
    """The open parts of one export."""

    def __init__(self, folder: Path, workspace: Workspace, format: str, pictures: bool) -> None:
        self._workspace = workspace
        with workspace.catalog(read_only=True) as catalog:
            classes = catalog.classes.names()
        open_part: dict[str, Callable[[], Part]] = {
            "images": lambda: _Pictures(folder / "images", workspace, pictures),
            "data": lambda: _Pictures(folder / "data", workspace, pictures),
            "masks": lambda: _Masks(folder),
            "coco": lambda: _Coco(folder / "coco.json", classes),
            "labels": lambda: _Coco(folder / "labels.json", classes),
            "tasks": lambda: TaskFile(folder / "tasks.json", classes),
            "yolo": lambda: YoloFolder(folder, workspace, classes, pictures),
            "predictions": lambda: _Predictions(folder, workspace),
        }
        self._parts = [open_part[name]() for name in PARTS[format]]
        self.images = self.masks = 0

    @property
    def losses(self) -> tuple[str, ...]:
        return tuple(loss for part in self._parts if isinstance(part, YoloFolder) for loss in part.losses)

    @property
    def annotations(self) -> int:
        return sum(part.file.annotations for part in self._parts if isinstance(part, _Coco))

    def add(self, image: Image, labels: list[Label]) -> None:
        name = image.id + EXTENSIONS.get(image.media_type, "")
        drawn = {
            label.author: StoredMap(self._workspace.blobs.get(label.label_map), label.height, label.width)
            for label in labels
            if label.label_map is not None
        }
        for part in self._parts:
            part.add(image, name, labels, drawn)
        self.images += 1
        self.masks += len(drawn)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _file_part(author: str) -> str:
    """The author's name as part of a file name; a digest if it has unsafe characters."""
    return (
        author if author.isascii() and author.replace("-", "").replace("_", "").isalnum() else digest(author)
    )
