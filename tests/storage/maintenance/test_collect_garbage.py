"""What is cleared and what stays, on both databases."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from dataengine.errors import Conflict, WorkspaceUnusable
from dataengine.records import (
    DetectorVersion,
    GeneratorVersion,
    Image,
    Job,
    Label,
    Prediction,
    PseudoLabel,
    QueueItem,
    Snapshot,
    SnapshotItem,
)
from storage.maintenance.collect_garbage import Cleared, collect
from storage.workspace import Workspace

DAY = 24 * 3600.0


def age(workspace: Workspace, days: float = 30.0) -> None:
    """Make every blob look that old."""
    for blob in workspace.blobs.stored():
        path = workspace.blobs.path_or_none(blob.sha256)
        assert path is not None
        at = time.time() - days * DAY
        os.utime(path, (at, at))


def checkpoint(workspace: Workspace, folder: Path, content: str) -> str:
    folder.mkdir()
    (folder / "weights.safetensors").write_text(content)
    return workspace.checkpoints.publish(folder)


def test_only_what_no_row_names_is_cleared(workspace: Workspace, tmp_path: Path) -> None:
    put = workspace.blobs.put
    used = {name: put(name.encode()) for name in ("picture", "thumbnail", "label", "manifest", "nested")}
    detector = checkpoint(workspace, tmp_path / "a", "detector")
    lora = checkpoint(workspace, tmp_path / "b", "lora")
    loose = checkpoint(workspace, tmp_path / "c", "nobody's")
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            [Image(id="i", sha256=used["picture"], thumbnail=used["thumbnail"], height=4, width=6)]
        )
        catalog.labels.submit(Label(image_id="i", author="anna", height=4, width=6, label_map=used["label"]))
        catalog.snapshots.add(Snapshot(id="s", manifest=used["manifest"], rows=0, composition={}))
        catalog.detectors.add(DetectorVersion(id="d", name="d", checkpoint=detector))
        catalog.generators.add(GeneratorVersion(id="g", name="g", location="x", lora=lora))
        catalog.jobs.add(Job(id="j", kind="x", result={"deep": [{"curve": f"see {used['nested']}!"}]}))
        catalog.commit()
    waste = {put(f"waste {number}".encode()) for number in range(5)}
    lost = {loose, *(file.sha256 for file in workspace.checkpoints.files(loose))}
    before = {blob.sha256: blob.size for blob in workspace.blobs.stored()}
    age(workspace)
    expected = Cleared(maps=0, blobs=7, bytes=sum(before[name] for name in waste | lost), unfinished=0)
    with pytest.raises(Conflict, match=r"7 of 16 blobs.*clinic gc --clear 7"):
        collect(workspace)
    assert collect(workspace, trial=True, expected=7) == expected
    assert {blob.sha256 for blob in workspace.blobs.stored()} == set(before), "a trial changes nothing"
    assert collect(workspace, expected=7) == expected
    assert {blob.sha256 for blob in workspace.blobs.stored()} == set(before) - waste - lost
    for id in (detector, lora):
        assert (workspace.checkpoints.fetch(id) / "weights.safetensors").is_file()
    assert collect(workspace).blobs == 0
    trashed = {blob.sha256 for blob in workspace.blobs.trashed()}
    assert trashed == waste | lost and workspace.blobs.get(min(waste)), "what is asked for comes back"
    for name in trashed - {min(waste)}:
        os.utime(workspace.path / "blobs" / "trash" / name, (0, 0))
    assert collect(workspace).deleted == 6 and not list(workspace.blobs.trashed())


def test_the_young_are_left_alone(workspace: Workspace) -> None:
    old, new = workspace.blobs.put(b"old"), workspace.blobs.put(b"new")
    age(workspace)
    workspace.blobs.put(b"new")  # stored again by a stage that is about to name it
    assert collect(workspace, expected=1).blobs == 1
    assert workspace.blobs.has(new) and not workspace.blobs.has(old)
    assert collect(workspace, grace_seconds=-1, most_share=1).blobs == 1


def test_maps_stay_for_the_champion_and_for_what_people_saw(workspace: Workspace) -> None:
    def pack(value: int) -> list[str]:
        return workspace.maps.put_many([np.full((4, 6), value + n, np.uint8) for n in range(2)])

    refs = {"champion": pack(0), "seen": pack(10), "past": pack(20), "fresh": pack(30), "pseudo": pack(40)}
    refs["waiting"] = pack(60)
    snapshot = pack(50)
    month_ago = time.time() - 30 * DAY
    with workspace.catalog() as catalog:
        catalog.images.add_many(Image(id=id, sha256=id, height=4, width=6) for id in ("a", "b"))
        for id in ("champion", "seen"):
            catalog.detectors.add(DetectorVersion(id=id, name=id, checkpoint=id))
        catalog.detectors.promote("champion", "root", "")
        catalog.predictions.add_many(
            Prediction(
                image_id=image_id,
                detector_id=detector_id,
                max=0.5,
                mean=0.1,
                uncertainty=0.2,
                map_ref=ref,
                created=time.time() if detector_id == "fresh" else month_ago,
            )
            for detector_id, pair in refs.items()
            for image_id, ref in zip("ab", pair, strict=True)
        )
        shown = Label(image_id="a", author="anna", height=4, width=6, clean=True, detector_id="seen")
        catalog.labels.submit(shown)
        for id in "ab":
            item = QueueItem(image_id=id, round_id="r", detector_id="waiting")
            catalog.queue.add_many([item])
        catalog.queue.answer("b", "r", "draw", "anna")
        pseudo = PseudoLabel(
            image_id="a", detector_id="pseudo", round_id="r", map_ref=refs["pseudo"][0], max=1
        )
        catalog.pseudo_labels.add_many([pseudo])
        row = SnapshotItem(image_id="a", image_sha256="a", kind="pseudo", target=snapshot[0])
        catalog.snapshots.add(Snapshot(id="s", manifest="m", rows=1, composition={}), [row])
        catalog.commit()
    age(workspace)
    assert collect(workspace, trial=True, expected=1).maps == 6
    cleared = collect(workspace, expected=1)
    assert (cleared.maps, cleared.blobs) == (6, 1), "six maps, and the one pack that nothing needs any more"
    with workspace.catalog(read_only=True) as catalog:
        left = {
            name: [prediction.map_ref is not None for prediction in catalog.predictions.of(name)]
            for name in refs
        }
        assert catalog.predictions.of("past")[0].max == 0.5, "figures stay"
    assert left == {
        "champion": [True, True],
        "seen": [True, False],
        "past": [False, False],
        "fresh": [True, True],
        "pseudo": [False, False],
        "waiting": [True, False],
    }
    for ref in (refs["champion"][1], refs["seen"][0], refs["fresh"][0], refs["pseudo"][0], snapshot[0]):
        assert workspace.maps.get(ref).shape == (4, 6)
    assert not workspace.blobs.has(refs["past"][0].partition(":")[0])


def test_what_killed_writers_left_is_swept(workspace: Workspace) -> None:
    workspace.blobs.put(b"x")
    left = workspace.path / "blobs" / "tmp" / "half"
    left.write_bytes(b"ha")
    os.utime(left, (0, 0))
    assert collect(workspace).unfinished == 1 and not left.exists()


def test_what_a_row_names_again_comes_back_from_the_trash(workspace: Workspace) -> None:
    name = workspace.blobs.put(b"picture")
    age(workspace)
    assert collect(workspace, expected=1).blobs == 1 and not workspace.blobs.has(name)
    with workspace.catalog() as catalog:
        catalog.images.add_many([Image(id="i", sha256=name, height=4, width=6)])
        catalog.commit()
    assert collect(workspace).deleted == 0
    assert workspace.blobs.has(name)


def test_blobs_of_another_mark_are_never_cleared(workspace: Workspace) -> None:
    name = workspace.blobs.put(b"somebody else's")
    age(workspace)
    workspace.blobs.write_root("workspace.json", b'{"workspace": "other"}')
    with pytest.raises(WorkspaceUnusable, match="does not carry this workspace's mark"):
        collect(workspace, expected=1)
    assert workspace.blobs.has(name)


def test_an_emptied_store_is_said_to_miss_what_the_catalog_names(workspace: Workspace) -> None:
    name = workspace.blobs.put(b"picture")
    with workspace.catalog() as catalog:
        catalog.images.add_many([Image(id="i", sha256=name, height=4, width=6)])
        catalog.commit()
    assert collect(workspace).missing == 0
    workspace.blobs.delete(name)
    assert collect(workspace).missing == 1
