"""Damaged and forged backups: each refused in one line, nothing left behind; sound ones are restored."""

from pathlib import Path

import pytest

from dataengine.errors import InputRefused, WorkspaceUnusable
from storage.maintenance.read_backup import read_backup
from storage.maintenance.restore import check_backup, restore
from tests.storage.maintenance.damage import (
    KEY,
    KINDS,
    Kind,
    Parts,
    first_format,
    sealed,
    sound_backup,
    take_apart,
    with_manifest,
    wrong_with,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("sound")
    return take_apart(sound_backup(folder), folder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace("/", " "))
def test_damage_is_refused_in_one_line_and_leaves_nothing(kind: Kind, parts: Parts, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(kind.harm(parts))
    target = tmp_path / "target"
    if KINDS.index(kind) % 2:
        target.mkdir()
    assert wrong_with(damaged, target, kind.key) == ""


def test_there_are_enough_kinds_each_once() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 40


def test_the_controls_are_restored(parts: Parts, tmp_path: Path) -> None:
    """Without this, refusing everything would pass."""
    sound = parts.folder / "sound.tar"
    resealed = tmp_path / "resealed.tar"
    resealed.write_bytes(sealed(parts, parts.members))
    earlier = first_format(sound, tmp_path / "first.tar")
    for number, (backup, key) in enumerate([(sound, KEY), (sound, None), (resealed, None), (earlier, None)]):
        restored = restore(backup, tmp_path / f"target{number}", key=key)
        assert len(list(restored.blobs.stored())) == len(parts.blobs())
        with restored.catalog(read_only=True) as catalog:
            assert (catalog.images.count(), catalog.users.count()) == (6, 1)
        restored.close()
        assert check_backup(backup, key).rows["images"] == 6


def test_a_newer_schema_says_what_to_do(parts: Parts, tmp_path: Path) -> None:
    newer = tmp_path / "newer.tar"
    newer.write_bytes(with_manifest(lambda found: found.update(revision="9999"))(parts))
    with pytest.raises(
        WorkspaceUnusable, match=r"'9999'.*newer Artifact Clinic wrote it. Install that version"
    ):
        restore(newer, tmp_path / "target")


def test_a_folder_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="not a complete Artifact Clinic backup"):
        read_backup(tmp_path)
    assert wrong_with(tmp_path, tmp_path / "target", KEY) == ""


def test_other_peoples_files_in_the_target_stay(parts: Parts, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    damaged = tmp_path / "damaged.tar"
    for kind in (KINDS[-1], KINDS[-4]):
        damaged.write_bytes(kind.harm(parts))
        with pytest.raises(Exception, match="damaged"):
            restore(damaged, target)
        assert [path.name for path in target.iterdir()] == ["notes.txt"]
