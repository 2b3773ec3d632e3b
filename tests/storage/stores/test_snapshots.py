"""Snapshots: identity by content, never a benchmark image, and shards that others open without us."""

import dataclasses
import io
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from dataengine.errors import Cancelled, Corrupt, InputRefused, NotFound
from dataengine.masks import pack_label_map
from dataengine.records import AND, Image, SnapshotItem
from storage import accounts
from storage.maintenance.rename_person import rename_person
from storage.opening import create_workspace
from storage.stores.snapshots import id_of_rows, row_hash
from storage.workspace import Workspace

SIZE = (12, 16)


def png(pixels: np.ndarray) -> bytes:
    body = io.BytesIO()
    Picture.fromarray(pixels).save(body, "PNG")
    return body.getvalue()


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def label_map(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 4, SIZE, dtype=np.uint8)


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, catalog_url: str, tmp_path: Path) -> Iterator[Workspace]:
    blobs = str(tmp_path / "blobs") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    workspace = create_workspace(tmp_path / "w", database_url=catalog_url, blob_url=blobs)
    yield workspace
    workspace.close()


def ingest(workspace: Workspace, count: int, split: str = "train", first: int = 0) -> list[Image]:
    images = [
        Image(
            id=f"{split}-{number:03d}",
            sha256=workspace.blobs.put(png(pixels(number))),
            height=SIZE[0],
            width=SIZE[1],
            prompt=f"a hand, number {number}",
            split=split,
        )
        for number in range(first, first + count)
    ]
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()
    return images


def row(image: Image, target: str | None = None, kind: str = "true", weight: float = 1.0) -> SnapshotItem:
    return SnapshotItem(
        image_id=image.id,
        image_sha256=image.sha256,
        kind=kind,
        target=target,
        category="hand",
        max_confidence=0.1 + 0.2,
        weight=weight,
        split=image.split,
        author="ada" if kind == "true" else None,
    )


def test_the_same_rows_are_the_same_snapshot(workspace: Workspace) -> None:
    rows = [row(image) for image in ingest(workspace, 5)]
    first = workspace.snapshots.publish(rows, round_id="r1")
    random.Random(0).shuffle(rows)
    second = workspace.snapshots.publish([*rows, rows[0]], round_id="r2")
    assert first == second and first.rows == 5 and first.composition == {"train/true": 5}
    assert first.id == id_of_rows(map(row_hash, rows))
    assert sorted(workspace.snapshots.read(first.id), key=row_hash) == sorted(rows, key=row_hash)
    with workspace.catalog() as catalog:
        assert list(catalog.snapshots.items(first.id)) == workspace.snapshots.read(first.id)
    changed = [dataclasses.replace(rows[0], weight=0.5), *rows[1:]]
    assert workspace.snapshots.publish(changed).id != first.id


def test_a_renamed_author_has_todays_name_in_rows_and_exports(workspace: Workspace) -> None:
    """The manifest is immutable and keeps the former name; its rows still match the snapshot's id."""
    rows = [row(image) for image in ingest(workspace, 2)]
    merged = dataclasses.replace(rows[0], author=f"ada{AND}ben")
    published = workspace.snapshots.publish([merged, rows[1]])
    workspace.snapshots.export(published.id)
    with workspace.catalog() as catalog:
        accounts.create_user(catalog, "ada", "correct horse battery", ["annotator"], "root")
        rename_person(catalog, "ada", "zoe", "root")
        catalog.commit()
        assert list(catalog.snapshots.items(published.id)) == workspace.snapshots.read(published.id)
    named = {f"ben{AND}zoe", "zoe"}
    assert {item.author for item in workspace.snapshots.read(published.id)} == named
    (shard,) = workspace.snapshots.export(published.id).shards
    assert set(parquet.read_table(shard, columns=["author"])["author"].to_pylist()) == named


item = st.builds(
    SnapshotItem,
    image_id=st.text(max_size=5),
    image_sha256=st.text(max_size=5),
    kind=st.sampled_from(["true", "pseudo"]),
    target=st.none() | st.text(max_size=5),
    category=st.none() | st.text(max_size=5),
    weight=st.floats(0, 1e6),
    max_confidence=st.floats(0, 1),
    author=st.none() | st.text(max_size=5),
)


@given(st.lists(item, min_size=1, max_size=6), st.randoms())
def test_hashing_sees_rows_not_order(items: list[SnapshotItem], shuffler: random.Random) -> None:
    hashes = [row_hash(one) for one in items]
    shuffled = hashes[:]
    shuffler.shuffle(shuffled)
    assert id_of_rows(hashes) == id_of_rows(shuffled)
    assert len(set(hashes)) == len({dataclasses.astuple(one) for one in items})
    assert id_of_rows(hashes) != id_of_rows(
        [*hashes, row_hash(dataclasses.replace(items[0], author="other"))]
    )


def test_benchmark_images_are_refused_whatever_the_row_says(workspace: Workspace) -> None:
    train, held_out = ingest(workspace, 2), ingest(workspace, 1, split="benchmark", first=50)
    disguised = dataclasses.replace(row(held_out[0]), split="train")
    for bad in (row(held_out[0]), disguised, dataclasses.replace(row(train[0]), split="benchmark")):
        with pytest.raises(InputRefused, match="benchmark"):
            workspace.snapshots.publish([row(train[1]), bad])
    for bad, reason in (
        (dataclasses.replace(row(train[0]), split="validation"), "fixed at ingest"),
        (dataclasses.replace(row(train[0]), image_sha256="0" * 64), "catalog"),
        (dataclasses.replace(row(train[0]), image_id="unknown"), "does not hold"),
    ):
        with pytest.raises(InputRefused, match=reason):
            workspace.snapshots.publish([bad])
    with pytest.raises(InputRefused, match="at least one row"):
        workspace.snapshots.publish([])
    with workspace.catalog() as catalog:
        assert not catalog.snapshots.list()


def test_a_changed_manifest_is_seen(workspace: Workspace) -> None:
    images = ingest(workspace, 3)
    good = workspace.snapshots.publish([row(image) for image in images])
    other = workspace.snapshots.publish([row(image) for image in images[:2]])
    forged = dataclasses.replace(good, id=other.id[::-1])
    with workspace.catalog() as catalog:
        catalog.snapshots.add(forged, [])
        catalog.commit()
    with pytest.raises(Corrupt, match="does not match its id"):
        workspace.snapshots.read(forged.id)
    with pytest.raises(NotFound):
        workspace.snapshots.read("0" * 64)


def test_export_opens_without_us(workspace: Workspace, tmp_path: Path) -> None:
    import datasets

    images = ingest(workspace, 6)
    labels = {images[n].id: workspace.blobs.put(pack_label_map(label_map(n))) for n in (0, 1)}
    confidence = [np.full(SIZE, 10 * n, dtype=np.uint8) for n in (2, 3)]
    references = workspace.maps.put_many(confidence)
    rows = [row(images[n], labels[images[n].id]) for n in (0, 1)]
    rows += [row(images[n], reference, "pseudo") for n, reference in zip((2, 3), references, strict=True)]
    rows += [row(images[n], None, "real", weight=0.25) for n in (4, 5)]
    snapshot = workspace.snapshots.publish(rows)
    export = workspace.snapshots.export(snapshot.id, shard_rows=4)
    assert (export.rows, export.erased, export.reused, len(export.shards)) == (6, 0, 0, 2)

    files = [str(path) for path in sorted(export.folder.glob("*.parquet"))]
    assert files == [str(path) for path in export.shards]
    opened = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert opened.features["image"] == datasets.Image() and opened.num_rows == 6
    by_id = {record["image_id"]: record for record in opened}
    for number, image in enumerate(images):
        record = by_id[image.id]
        assert np.array_equal(np.asarray(record["image"].convert("RGB")), pixels(number))
        assert record["prompt"] == image.prompt and record["max_confidence"] == 0.1 + 0.2
    for number in (0, 1):
        assert np.array_equal(np.asarray(by_id[images[number].id]["label_map"]), label_map(number))
        assert by_id[images[number].id]["confidence_map"] is None
    for number, expected in zip((2, 3), confidence, strict=True):
        assert np.array_equal(np.asarray(by_id[images[number].id]["confidence_map"]), expected)
        assert by_id[images[number].id]["label_map"] is None
    assert not np.asarray(by_id[images[4].id]["label_map"]).any() and by_id[images[4].id]["weight"] == 0.25


def test_shards_are_used_again(workspace: Workspace) -> None:
    images = ingest(workspace, 10)
    parent = workspace.snapshots.publish([row(image) for image in images[:8]])
    child = workspace.snapshots.publish([row(image) for image in images], parent=parent.id)
    first = workspace.snapshots.export(parent.id, shard_rows=4)
    assert (len(first.shards), first.reused) == (2, 0)
    assert workspace.snapshots.export(parent.id, shard_rows=4).reused == 2
    second = workspace.snapshots.export(child.id, shard_rows=4)
    assert (len(second.shards), second.reused, second.rows) == (3, 2, 10)
    assert second.shards[0].samefile(first.shards[0])


def test_an_erased_image_is_left_out_and_counted(workspace: Workspace) -> None:
    images = ingest(workspace, 3)
    snapshot = workspace.snapshots.publish([row(image) for image in images])
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql(f"DELETE FROM images WHERE id = '{images[0].id}'")
        catalog.commit()
    export = workspace.snapshots.export(snapshot.id)
    assert (export.rows, export.erased) == (2, 1)


def test_a_cancelled_export_leaves_whole_shards_only(workspace: Workspace) -> None:
    snapshot = workspace.snapshots.publish([row(image) for image in ingest(workspace, 6)])

    def cancel(done: float, total: int, message: str = "", **figures: float) -> None:
        if done >= 4:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        workspace.snapshots.export(snapshot.id, shard_rows=2, report=cancel)
    assert workspace.snapshots.export(snapshot.id, shard_rows=2).reused == 2
    assert not list(workspace.snapshots.folder.rglob("*.tmp"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_floats_survive_the_manifest(tmp_path_factory: pytest.TempPathFactory, weights: list[float]) -> None:
    import pyarrow.parquet as parquet

    from storage.stores.snapshots import _manifest

    items = [
        SnapshotItem(image_id=str(n), image_sha256="", kind="true", target=None, weight=weight)
        for n, weight in enumerate(weights)
    ]
    back = [SnapshotItem(**one) for one in parquet.read_table(io.BytesIO(_manifest(items))).to_pylist()]
    assert back == items
