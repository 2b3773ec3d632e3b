"""Out and in again: what a format can hold comes back as it was; what it cannot is said."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataengine.errors import InputRefused, NotFound
from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import Label, Region, SnapshotItem
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers.hub import export_snapshot
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.opening import open_workspace
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures

HEIGHT, WIDTH = 20, 28


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Boxes over boxes, of every class, with holes and noise."""
    label_map = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        h, w = draw(st.integers(1, HEIGHT)), draw(st.integers(1, WIDTH))
        label_map[y : y + h, x : x + w] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        noise = np.random.default_rng(draw(st.integers(0, 99))).random((HEIGHT, WIDTH)) < 0.1
        label_map[noise] = 2
    return label_map


@contextmanager
def workspaces(bare: Path) -> Iterator[tuple[Workspace, Workspace, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        both = [open_workspace(shutil.copytree(bare, Path(folder) / name)) for name in ("from", "to")]
        yield both[0], both[1], Path(folder)
        for workspace in both:
            workspace.close()


def fill(workspace: Workspace, folder: Path, drawn: list[np.ndarray]) -> None:
    """A picture with a prompt and seed for each label map, drawn by one or two people."""
    folder.mkdir()
    rows = ["file_name,prompt,seed"]
    for number in range(len(drawn)):
        (folder / f"{number}.png").write_bytes(pictures.encoded(pictures.scene(number, HEIGHT, WIDTH)))
        rows.append(f"{number}.png,a hand {number},{number}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    import_folder(workspace, folder, licence="CC0", validation=0.0, workers=1)
    with workspace.catalog() as catalog:
        for image in catalog.images.find():
            assert image.seed is not None
            for author in ("ada", "Jürgen <j@x>")[: 1 + image.seed % 2]:
                label_map = drawn[image.seed] if author == "ada" else drawn[image.seed][::-1].copy()
                blob = workspace.blobs.put(pack_label_map(label_map)) if label_map.any() else None
                catalog.labels.submit(
                    Label(
                        image_id=image.id, author=author, height=HEIGHT, width=WIDTH,
                        label_map=blob, clean=blob is None, lead_seconds=4.5,
                    )
                )  # fmt: skip
        catalog.commit()


def answers(workspace: Workspace, authors: bool = True) -> dict[tuple[str, int | None, str], bytes]:
    """Every label as bytes, by the picture's hash, seed and author."""
    found = {}
    with workspace.catalog(read_only=True) as catalog:
        for image in catalog.images.find():
            for label in catalog.labels.of_images([image.id]):
                packed = workspace.blobs.get(label.label_map) if label.label_map else None
                pixels = unpack_label_map(packed, HEIGHT, WIDTH).tobytes() if packed else b"clean"
                author = label.author if authors else ""
                found[image.sha256, image.seed if authors else None, author] = pixels
    return found


SOME = settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("format", ["masks", "coco", "label-studio"])
@SOME
@given(drawn=st.lists(label_maps(), min_size=3, max_size=5))
def test_out_and_in(format: str, drawn: list[np.ndarray], _bare: Path) -> None:
    with workspaces(_bare) as (source, target, folder):
        fill(source, folder / "pictures", drawn)
        done = export_folder(source, folder / "out", format=format)
        assert done.images == len(drawn)
        result = import_dataset(
            target, format, ImportOptions(path=done.folder), Ingest(validation=0.0), workers=1
        )
        assert not result.refused and result.labels == len(answers(source))
        # COCO knows no seeds, so only what it holds is compared.
        if format == "coco":
            strip = {(key[0], key[2]): value for key, value in answers(source).items()}
            assert {(key[0], key[2]): value for key, value in answers(target).items()} == strip
        else:
            assert answers(target) == answers(source)
        again = import_dataset(target, format, ImportOptions(path=done.folder), Ingest(), workers=1)
        assert (again.added, again.labels) == (0, 0)


@SOME
@given(drawn=st.lists(label_maps(), min_size=2, max_size=4))
def test_snapshots_through_hugging_face(drawn: list[np.ndarray], _bare: Path) -> None:
    with workspaces(_bare) as (source, target, folder):
        fill(source, folder / "pictures", drawn)
        with source.catalog(read_only=True) as catalog:
            images = catalog.images.find()
            labels = {image.id: catalog.labels.latest(image.id, "ada") for image in images}
        items = [
            SnapshotItem(
                image_id=i.id, image_sha256=i.sha256, kind="true", author="ada", split=i.split,
                target=labels[i.id].label_map,  # type: ignore[union-attr]
            )
            for i in images
        ]  # fmt: skip
        snapshot = source.snapshots.publish(items)
        done = export_snapshot(source, snapshot.id, folder / "hf")
        assert done.rows == len(images)
        card = (folder / "hf" / "README.md").read_text()
        assert "| CC0 |" in card and "train/true" in card and snapshot.id in card
        loaded = datasets.load_dataset(str(folder / "hf"), split="train", cache_dir=str(folder / "cache"))
        assert len(loaded) == len(images) and loaded[0]["image"].size == (WIDTH, HEIGHT)
        result = import_dataset(target, "hf", ImportOptions(path=folder / "hf"), Ingest(), workers=1)
        assert not result.refused and result.losses
        expected = {
            (i.sha256, "ada"): unpack_label_map(
                source.blobs.get(labels[i.id].label_map), HEIGHT, WIDTH  # type: ignore[union-attr, arg-type]
            ).tobytes()
            if labels[i.id].label_map  # type: ignore[union-attr]
            else b"clean"
            for i in images
        }  # fmt: skip
        assert {(key[0], key[2]): value for key, value in answers(target).items()} == expected


def test_snapshots_as_other_formats_and_losses(fresh: Workspace, tmp_path: Path) -> None:
    ring = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ring[3:9, 3:9] = 1
    fill(fresh, tmp_path / "pictures", [ring, ring, ring])
    with fresh.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        label = catalog.labels.latest(images[0].id, "ada")
    assert label is not None
    map_ref = fresh.maps.put_many([np.full((HEIGHT, WIDTH), 9, dtype=np.uint8)])[0]
    given = [("true", label.label_map), ("real", None), ("pseudo", map_ref)]
    snapshot = fresh.snapshots.publish(
        SnapshotItem(image_id=i.id, image_sha256=i.sha256, kind=kind, target=target, split=i.split)  # type: ignore[arg-type]
        for i, (kind, target) in zip(images, given, strict=True)
    )
    done = export_folder(fresh, tmp_path / "coco", format="coco", snapshot=snapshot.id)
    assert (done.images, done.masks, done.annotations) == (3, 1, 1)
    assert "1 confidence maps" in " ".join(done.losses)
    said = json.loads((tmp_path / "coco" / "coco.json").read_text())
    assert [bool(one.get("clean_by")) for one in said["images"]].count(True) == 1
    fiftyone = export_folder(fresh, tmp_path / "fo", format="fiftyone", only_labelled=True).folder
    assert sorted(path.name for path in fiftyone.iterdir()) == ["data", "labels.json"]
    with pytest.raises(NotFound):
        export_folder(fresh, tmp_path / "none", snapshot="0" * 64)
    with pytest.raises(InputRefused, match="formats are"):
        export_folder(fresh, tmp_path / "none", format="pickle")
    assert not (tmp_path / "none").exists()


def test_predictions_as_a_table(fresh: Workspace, tmp_path: Path) -> None:
    from tests.ui.conftest import furnish

    furnish(fresh)
    folder = export_folder(fresh, tmp_path / "out", format="predictions").folder
    lines = (folder / "predictions.csv").read_text().splitlines()
    assert len(lines) == 9 and lines[0].startswith("image,detector,max,mean,uncertainty,created,prompt")


@pytest.mark.parametrize("format", ["masks", "coco", "folder"])
def test_reasons_and_importance_go_out_and_in(format: str, _bare: Path) -> None:
    """Of two regions of one class; `folder` is read back as what it contains, masks with their table."""
    label_map = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    label_map[2:8, 2:10], label_map[10:15, 12:20] = 1, 3
    regions = (Region(1, (2, 2, 10, 8), 'six "fingers", fused', 90), Region(3, (12, 10, 20, 15), "", 5))
    with workspaces(_bare) as (source, target, folder):
        fill(source, folder / "pictures", [label_map])
        with source.catalog() as catalog:
            [label] = catalog.labels.of_images([image.id for image in catalog.images.find()])
            catalog.labels.submit(replace(label, regions=regions))
            catalog.commit()
        done = export_folder(source, folder / "out", format=format)
        read_as = "masks" if format == "folder" else format
        for _ in range(2):
            import_dataset(
                target, read_as, ImportOptions(path=done.folder), Ingest(validation=0.0), workers=1
            )
        with target.catalog(read_only=True) as catalog:
            [found] = catalog.labels.of_images([image.id for image in catalog.images.find()])
        assert (found.regions, found.revision) == (regions, 1)
