"""Backups on both databases: whole or not there, and the same workspace again."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import storage.maintenance.backup
import storage.maintenance.restore
from dataengine.errors import Conflict, Corrupt, InputRefused, WorkspaceUnusable
from dataengine.records import (
    AuditEvent,
    CategoryAnswer,
    DetectorVersion,
    Draft,
    Image,
    Label,
    Prediction,
    QueueItem,
    Study,
    User,
)
from storage.engine import make_engine
from storage.maintenance.backup import back_up, back_up_before_upgrade
from storage.maintenance.read_backup import read_backup
from storage.maintenance.restore import restore
from storage.migrate import revision
from storage.opening import open_workspace
from storage.tables import metadata
from storage.workspace import Workspace

BIG = 200_000


@pytest.fixture
def filled(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Rows of every shape, small and large blobs."""
    monkeypatch.setattr(storage.maintenance.restore, "SMALL", BIG - 1)
    monkeypatch.setattr(storage.maintenance.restore, "BATCH", 3)
    monkeypatch.setattr(storage.maintenance.restore, "ROWS", 4)
    monkeypatch.setattr(storage.maintenance.backup, "ROWS", 4)
    blobs = workspace.blobs.put_many([f"picture {number}".encode() for number in range(10)])
    weights = workspace.blobs.put(os.urandom(BIG))
    with workspace.catalog() as catalog:
        for number, sha256 in enumerate(blobs):
            catalog.images.add_many(
                [
                    Image(
                        id=f"i{number}",
                        sha256=sha256,
                        height=4,
                        width=6,
                        prompt="a “cat”\n☃",
                        seed=2**60 + number,
                        settings={"cfg": 0.1 + number, "nested": [1, {"a": None}]},
                    )
                ]
            )
        catalog.drafts.save(Draft(image_id="i1", author="ann", label_map=bytes(range(256))))
        catalog.predictions.add_many(
            [Prediction(image_id="i1", detector_id="d", max=1 / 3, mean=1e-9, uncertainty=0.1)]
        )
        catalog.detectors.add(DetectorVersion(id="d", name="d", checkpoint=weights))
        catalog.detectors.promote("d", "root", "first")
        catalog.queue.add_many([QueueItem(image_id="i1", round_id="r", annotations_per_image=2)])
        catalog.labels.submit(
            Label(image_id="i1", author="anna", height=4, width=6, clean=True, round_id="r")
        )
        catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h", pairs=(("i1", "i2"),)))
        catalog.users.add(User(name="anna", roles=("annotator", "rater")), "hash")
        catalog.commit()
    return workspace


def everything(workspace: Workspace) -> dict[str, list[Any]]:
    """Every row of every table, as plain values."""
    with workspace.catalog(read_only=True) as catalog:
        return {
            table.name: sorted(map(repr, catalog.connection.execute(table.select())))
            for table in metadata.sorted_tables
        }


def blobs_of(workspace: Workspace) -> dict[str, bytes]:
    return {blob.sha256: workspace.blobs.get(blob.sha256) for blob in workspace.blobs.stored()}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str | None]]:
    """An empty folder and an empty database of either kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    yield tmp_path / "elsewhere", url


def test_a_workspace_comes_back_the_same_on_either_database(
    filled: Workspace, elsewhere: tuple[Path, str | None], tmp_path: Path
) -> None:
    backup = back_up(filled, tmp_path / "out" / "b.tar")
    assert (backup.blobs, backup.rows["images"], backup.damaged) == (11, 10, ())
    assert read_backup(backup.path) == backup
    again = restore(backup.path, elsewhere[0], database_url=elsewhere[1])
    assert everything(again) == everything(filled)
    assert blobs_of(again) == blobs_of(filled)
    with again.catalog() as catalog:  # numbering goes on where it was
        catalog.audit.add(AuditEvent(actor="root", action="look", subject="x"))
        catalog.detectors.add(DetectorVersion(id="e", name="e", checkpoint="c"))
        catalog.detectors.promote("e", "root", "better")
        assert catalog.detectors.rollback("root").id == "d"
        catalog.commit()
    again.close()


def test_work_goes_on_during_a_backup(filled: Workspace, tmp_path: Path) -> None:
    def work(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == 1:
            with filled.catalog() as catalog:
                catalog.images.set_categories(
                    [CategoryAnswer(image_id="i3", model="late", category="late", confidence=1.0)]
                )
                catalog.commit()

    back_up(filled, tmp_path / "b.tar", report=work)
    again = restore(tmp_path / "b.tar", tmp_path / "again", database_url=f"sqlite:///{tmp_path}/again.sqlite")
    with again.catalog() as before, filled.catalog() as after:
        assert before.images.count(category="late") == 0 and after.images.count(category="late") == 1
    again.close()


def test_nothing_is_overwritten(filled: Workspace, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "b.tar")
    with pytest.raises(Conflict, match="never overwritten"):
        back_up(filled, tmp_path / "b.tar")
    url = None if filled.own_database else filled.database_url
    before = everything(filled)
    with pytest.raises(Conflict, match="already has a catalog"):
        restore(tmp_path / "b.tar", filled.path, database_url=url)
    assert everything(filled) == before


@pytest.mark.parametrize("at", [0, 5])
def test_a_backup_that_is_stopped_is_not_there(filled: Workspace, tmp_path: Path, at: int) -> None:
    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == at:
            raise OSError(28, "No space left on device")

    with pytest.raises(WorkspaceUnusable, match="full"):
        back_up(filled, tmp_path / "out" / "b.tar", report=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_restore_that_is_stopped_can_be_run_again(filled: Workspace, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "b.tar")
    url = f"sqlite:///{tmp_path}/again.sqlite"

    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "b.tar", tmp_path / "again", database_url=url, report=stop)
    assert revision(make_engine(url)) is None
    again = restore(tmp_path / "b.tar", tmp_path / "again", database_url=url)
    assert everything(again) == everything(filled)
    again.close()


def test_a_damaged_blob_is_named_and_the_rest_is_kept(filled: Workspace, tmp_path: Path) -> None:
    with filled.catalog() as catalog:
        sha256 = catalog.images.get("i4").sha256
    path = filled.blobs.path_or_none(sha256)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    backup = back_up(filled, tmp_path / "b.tar")
    assert backup.damaged == (sha256,) and backup.blobs == 10
    again = restore(tmp_path / "b.tar", tmp_path / "again", database_url=f"sqlite:///{tmp_path}/again.sqlite")
    assert sha256 not in blobs_of(again) and len(blobs_of(again)) == 10
    again.close()


def tampered(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The backup with each member's bytes changed; None leaves one out."""
    with tarfile.open(source) as archive, tarfile.open(target, "w") as copy:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            body = change(member.name, file.read())
            if body is not None:
                member.size = len(body)
                copy.addfile(member, io.BytesIO(body))
    return target


def test_a_damaged_backup_is_refused_and_leaves_no_catalog(filled: Workspace, tmp_path: Path) -> None:
    whole = back_up(filled, tmp_path / "b.tar").path

    def flip(name: str, body: bytes) -> bytes:
        return b"y" + body[1:] if name.startswith("blobs/") and len(body) < BIG else body

    def flip_large(name: str, body: bytes) -> bytes:
        return b"y" * BIG if name.startswith("blobs/") and len(body) == BIG else body

    def lose(name: str, body: bytes) -> bytes | None:
        return None if name.startswith("blobs/") and len(body) == BIG else body

    def lose_a_row(name: str, body: bytes) -> bytes:
        return gzip.compress(b"") if name == "catalog/users.jsonl.gz" else body

    for number, change in enumerate((flip, flip_large, lose, lose_a_row)):
        broken = tampered(whole, tmp_path / f"broken{number}.tar", change)
        url = f"sqlite:///{tmp_path}/restored{number}.sqlite"
        with pytest.raises(Corrupt):
            restore(broken, tmp_path / f"restored{number}", database_url=url)
        assert revision(make_engine(url)) is None


def test_what_is_no_backup_is_refused(filled: Workspace, tmp_path: Path) -> None:
    whole = back_up(filled, tmp_path / "b.tar").path
    cut, other, newer = tmp_path / "cut.tar", tmp_path / "other.tar", tmp_path / "newer.tar"
    cut.write_bytes(whole.read_bytes()[: BIG // 2])
    other.write_bytes(b"hello")
    for path in (cut, other, tmp_path / "absent.tar"):
        with pytest.raises(InputRefused, match="not a complete Artifact Clinic backup"):
            restore(path, tmp_path / "again")
    tampered(
        whole,
        newer,
        lambda name, body: (
            json.dumps({**json.loads(body), "format": 3}).encode() if name == "backup.json" else body
        ),
    )
    with pytest.raises(InputRefused, match="another format"):
        read_backup(newer)


def test_names_in_a_backup_cannot_leave_the_workspace(filled: Workspace, tmp_path: Path) -> None:
    whole = back_up(filled, tmp_path / "b.tar").path
    evil = tmp_path / "evil.tar"
    with tarfile.open(whole) as archive, tarfile.open(evil, "w") as copy:
        for member in archive:
            if member.name.startswith("blobs/"):
                member.name = "blobs/../../escaped"
            file = archive.extractfile(member)
            copy.addfile(member, file)
    with pytest.raises(InputRefused, match="is there twice"):
        restore(evil, tmp_path / "again", database_url=f"sqlite:///{tmp_path}/again.sqlite")
    assert not list(tmp_path.rglob("escaped"))


def test_before_an_upgrade_the_rows_are_kept(filled: Workspace, tmp_path: Path) -> None:
    kept = back_up_before_upgrade(filled)
    assert kept.path.parent == filled.path / "backups" and kept.blobs == 0 and kept.rows["images"] == 10
    again = restore(
        kept.path,
        tmp_path / "again",
        database_url=f"sqlite:///{tmp_path}/again.sqlite",
        blob_url=filled.blob_url,
    )
    assert everything(again) == everything(filled) and blobs_of(again) == blobs_of(filled)
    again.close()


def test_opening_an_older_workspace_keeps_a_backup(
    filled: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded: list[str] = []

    def upgrade(connection: Any, target: str = "head") -> None:
        upgraded.append(target)

    url = None if filled.own_database else filled.database_url
    with monkeypatch.context() as patch:
        patch.setattr("storage.migrate.REVISION", "9999")
        patch.setattr("storage.migrate.upgrade", upgrade)
        open_workspace(filled.path, database_url=url).close()
    assert upgraded == ["head"]
    [kept] = (filled.path / "backups").iterdir()
    assert read_backup(kept).rows["images"] == 10


def test_an_empty_workspace_can_be_backed_up(workspace: Workspace, tmp_path: Path) -> None:
    backup = back_up(workspace, tmp_path / "b.tar")
    assert {name for name, count in backup.rows.items() if count} == {"workspace"} and backup.blobs == 0
