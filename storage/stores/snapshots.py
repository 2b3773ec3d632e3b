"""Immutable training sets: a Parquet manifest for training, shards with pixels for export.

A snapshot's id is the SHA-256 of its sorted row hashes, so that equal rows are the same snapshot, in any
order and from any run. Exported shards are Hugging Face Parquet files that `datasets.load_dataset("parquet",
…)` opens without us; a shard's name is derived from its content, and existing shards are reused.
"""

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataengine import durable
from dataengine.errors import Corrupt, InputRefused
from dataengine.masks import unpack_label_map
from dataengine.records import AND, ERASED, Image, Report, Snapshot, SnapshotItem, no_report
from storage.stores.blobs import Blobs, writing
from storage.stores.maps import Maps

if TYPE_CHECKING:
    import pyarrow

    from storage.catalog import Catalog


SHARD_ROWS = 256
EXPORT_FORMAT = 2
COLUMNS = tuple(field.name for field in fields(SnapshotItem))
NUMBERS = ("max_confidence", "weight")
OF_IMAGES = ("prompt", "licence", "source", "group")
"""Further columns of an export: text of the image."""
EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotExport:
    """The shards in `folder`, the number of reused ones, rows, and rows erased since."""

    folder: Path
    shards: tuple[Path, ...]
    reused: int
    rows: int
    erased: int


class Snapshots:
    """The snapshots of a workspace; exported shards are stored under `folder`."""

    def __init__(
        self, open_catalog: Callable[..., "Catalog"], blobs: Blobs, maps: Maps, folder: Path
    ) -> None:
        self._open_catalog = open_catalog
        self.blobs = blobs
        self.maps = maps
        self.folder = folder

    def publish(
        self, items: Iterable[SnapshotItem], *, round_id: str | None = None, parent: str | None = None
    ) -> Snapshot:
        """Store the rows as a snapshot, or return the existing one with exactly these rows. Equal rows count
        once.

        Raises `InputRefused` when there are no rows, or when a row is of split `benchmark` (in the row or in
        the catalog), refers to an unknown image, or has another hash than that image.
        """
        rows = {row_hash(item): item for item in items}
        if not rows:
            raise InputRefused("a snapshot needs at least one row; label or pseudo-label some images first")
        ordered = [rows[key] for key in sorted(rows)]
        with self._open_catalog(read_only=True) as catalog:
            _check(ordered, {image.id: image for image in catalog.images.get_many(_image_ids(ordered))})
        snapshot = Snapshot(
            id=id_of_rows(rows),
            manifest=self.blobs.put(_manifest(ordered)),
            rows=len(ordered),
            composition=dict(sorted(Counter(f"{item.split}/{item.kind}" for item in ordered).items())),
            round_id=round_id,
            parent=parent,
        )
        with self._open_catalog() as catalog:
            catalog.snapshots.add(snapshot, ordered)
            catalog.commit()
            return catalog.snapshots.get(snapshot.id)

    def read(self, snapshot_id: str) -> list[SnapshotItem]:
        """The rows, by row hash, with today's names of their authors: of those renamed since, and the
        pseudonyms of those erased.

        Raises `NotFound`, or `Corrupt` when the manifest does not match the id.
        """
        import pyarrow.parquet as parquet

        with self._open_catalog(read_only=True) as catalog:
            snapshot = catalog.snapshots.get(snapshot_id)
            authors = catalog.snapshots.authors(snapshot_id)
        table = parquet.read_table(io.BytesIO(self.blobs.get(snapshot.manifest)), columns=list(COLUMNS))
        items = [SnapshotItem(**row) for row in table.to_pylist()]
        if id_of_rows(map(row_hash, items)) != snapshot_id:
            raise Corrupt(
                f"the manifest of snapshot {snapshot_id} does not match its id; restore it from a backup"
            )
        for position, author in authors.items():
            items[position] = replace(items[position], author=author)
        return items

    def export(
        self, snapshot_id: str, shard_rows: int = SHARD_ROWS, report: Report = no_report
    ) -> SnapshotExport:
        """Export Parquet shards with embedded images, label maps and confidence maps, to the snapshot's
        folder.

        Columns: the snapshot's own, `seed`, `generator`, `OF_IMAGES`, `image`, `label_map` (classes; all 0
        for artifact-free rows, null where the target is a confidence map) and `confidence_map` (8-bit, null
        elsewhere). Rows come oldest ancestor first, so that a snapshot that extends its parent shares the
        parent's shards. Rows whose image or label was erased since are omitted and counted.
        """
        items = self._oldest_first(snapshot_id)
        with self._open_catalog(read_only=True) as catalog:
            images = {image.id: image for image in catalog.images.get_many(_image_ids(items))}
        kept = self.present(items)
        parts = [kept[start : start + shard_rows] for start in range(0, len(kept), shard_rows)]
        target = self.folder / snapshot_id
        shards, reused = [], 0
        for number, part in enumerate(parts):
            report(number * shard_rows, len(kept), "exporting the snapshot")
            shared = self.folder / "shards" / f"{_shard_name(part)}.parquet"
            if shared.is_file():
                reused += 1
            else:
                self._write_shard(shared, [(item, images[item.image_id]) for item in part])
            shards.append(target / f"data-{number:05d}-of-{len(parts):05d}.parquet")
            _link(shared, shards[-1])
        report(len(kept), len(kept), "exported")
        return SnapshotExport(
            folder=target, shards=tuple(shards), reused=reused, rows=len(kept), erased=len(items) - len(kept)
        )

    def present(self, items: Sequence[SnapshotItem]) -> list[SnapshotItem]:
        """The rows whose image and label were not erased since, in order."""
        with self._open_catalog(read_only=True) as catalog:
            images = {image.id for image in catalog.images.get_many(_image_ids(items))}
        targets = {item.target.partition(":")[0] for item in items if item.target}
        kept = {target for target in targets if self.blobs.has(target)}
        return [
            item
            for item in items
            if item.image_id in images
            and (item.target is None or item.target.partition(":")[0] in kept)
            and not _only_by_erased(item)
        ]

    def _oldest_first(self, snapshot_id: str) -> list[SnapshotItem]:
        """The rows; those shared with the oldest ancestor come first, then those of the next, and so on."""
        lineage = [snapshot_id]
        with self._open_catalog(read_only=True) as catalog:
            while (parent := catalog.snapshots.get(lineage[-1]).parent) and parent not in lineage:
                lineage.append(parent)
        rows = {row_hash(item): item for item in self.read(snapshot_id)}
        ordered: dict[str, SnapshotItem] = {}
        for ancestor in reversed(lineage):
            ordered |= {key: rows[key] for key in map(row_hash, self.read(ancestor)) if key in rows}
        return list(ordered.values())

    def _write_shard(self, path: Path, rows: Sequence[tuple[SnapshotItem, Image]]) -> None:
        import pyarrow
        import pyarrow.parquet as parquet

        table = pyarrow.Table.from_pylist([self._row(*row) for row in rows], schema=_export_schema())
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Images are compressed already; small row groups keep random access cheap.
                parquet.write_table(table, fresh, compression="none", row_group_size=64)
                durable.move(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)

    def _row(self, item: SnapshotItem, image: Image) -> dict[str, Any]:
        label_map, confidence_map = self._target(item, image)
        name = image.id + EXTENSIONS.get(image.media_type, "")
        return _row(item) | {
            "category": item.category or image.category,
            "seed": image.seed,
            "generator": image.generator_id,
            **{name: getattr(image, name) for name in OF_IMAGES},
            "image": {"bytes": self.blobs.get(item.image_sha256), "path": name},
            "label_map": label_map,
            "confidence_map": confidence_map,
        }

    def _target(
        self, item: SnapshotItem, image: Image
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        if item.target is None:
            return _png(np.zeros((image.height, image.width), dtype=np.uint8), f"{image.id}_labels.png"), None
        if ":" in item.target:
            return None, _png(self.maps.get(item.target), f"{image.id}_confidence.png")
        label_map = unpack_label_map(self.blobs.get(item.target), image.height, image.width)
        return _png(label_map, f"{image.id}_labels.png"), None


def row_hash(item: SnapshotItem) -> str:
    """SHA-256 of a row's fields, by name; floats as their shortest exact decimal."""
    return hashlib.sha256(json.dumps(_row(item), sort_keys=True, allow_nan=False).encode()).hexdigest()


def id_of_rows(row_hashes: Iterable[str]) -> str:
    """SHA-256 of the sorted row hashes."""
    return hashlib.sha256("\n".join(sorted(row_hashes)).encode()).hexdigest()


def _shard_name(items: Sequence[SnapshotItem]) -> str:
    return hashlib.sha256("\n".join([str(EXPORT_FORMAT), *map(row_hash, items)]).encode()).hexdigest()


def _row(item: SnapshotItem) -> dict[str, Any]:
    return asdict(item) | {name: float(getattr(item, name)) for name in NUMBERS}


def _image_ids(items: Iterable[SnapshotItem]) -> list[str]:
    return sorted({item.image_id for item in items})


def _only_by_erased(item: SnapshotItem) -> bool:
    return item.author is not None and all(name.startswith(ERASED) for name in item.author.split(AND))


def _check(items: Iterable[SnapshotItem], images: dict[str, Image]) -> None:
    for item in items:
        if not (image := images.get(item.image_id)):
            raise InputRefused(f"snapshot row names image {item.image_id}, which the catalog does not hold")
        if "benchmark" in (item.split, image.split):
            raise InputRefused(
                f"image {item.image_id} is of split benchmark, which must not be used for training. "
                "Build the snapshot from train and validation images."
            )
        if (item.image_sha256, item.split) != (image.sha256, image.split):
            raise InputRefused(
                f"snapshot row of image {item.image_id} has {item.split} {item.image_sha256[:12]}, but "
                f"the catalog {image.split} {image.sha256[:12]}; splits are fixed at ingest"
            )


def _manifest(items: Sequence[SnapshotItem]) -> bytes:
    import pyarrow
    import pyarrow.parquet as parquet

    body = io.BytesIO()
    schema = pyarrow.schema(_item_fields())
    parquet.write_table(pyarrow.Table.from_pylist(list(map(_row, items)), schema=schema), body)
    return body.getvalue()


def _item_fields() -> list["pyarrow.Field"]:
    import pyarrow

    numbers = {"max_confidence", "weight"}
    return [
        pyarrow.field(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in COLUMNS
    ]


def _export_schema() -> "pyarrow.Schema":
    """The columns, with the features that Hugging Face `datasets` reads from the file's own metadata."""
    import pyarrow

    image_struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    plain = [*_item_fields(), pyarrow.field("seed", pyarrow.int64())]
    plain += [pyarrow.field(name, pyarrow.string()) for name in ("generator", *OF_IMAGES)]
    image_fields = [pyarrow.field(name, image_struct) for name in ("image", "label_map", "confidence_map")]
    features: dict[str, Any] = {f.name: {"dtype": str(f.type), "_type": "Value"} for f in plain}
    features |= {field.name: {"_type": "Image"} for field in image_fields}
    features |= {name: {"dtype": "float64", "_type": "Value"} for name in NUMBERS}
    described = json.dumps({"info": {"features": features}})
    return pyarrow.schema([*plain, *image_fields], metadata={"huggingface": described})


def _png(pixels: NDArray[np.uint8], name: str) -> dict[str, Any]:
    from PIL import Image as PilImage

    body = io.BytesIO()
    PilImage.fromarray(pixels).save(body, format="PNG", compress_level=4)
    return {"bytes": body.getvalue(), "path": name}


def _link(shared: Path, name: Path) -> None:
    """Link `name` to the file `shared`, or copy it if the disk supports no links."""
    fresh = name.with_suffix(f".{os.getpid()}.tmp")
    with writing(name.parent):
        name.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        try:
            fresh.hardlink_to(shared)
        except OSError:
            shutil.copyfile(shared, fresh)
        durable.move(fresh, name)
        fresh.unlink(missing_ok=True)
