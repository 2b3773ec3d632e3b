"""Whatever a command writes is its owner's alone, whatever the account's umask is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import main
from dataengine.records import SnapshotItem
from storage.opening import open_workspace
from tests.pipelines.exchange import layouts


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """The usual umask, under which other accounts may read new files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable(folder: Path) -> list[str]:
    """Files and folders that other accounts may read, write or enter."""
    paths = [folder, *folder.rglob("*")]
    return [str(path) for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077]


def test_the_search_sees_a_readable_file(tmp_path: Path) -> None:
    (tmp_path / "loose.txt").write_text("x")
    assert str(tmp_path / "loose.txt") in readable(tmp_path)


def test_typical_work_leaves_no_readable_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, pictures = tmp_path / "w", tmp_path / "p"
    for number in range(3):
        layouts.picture(pictures, f"{number}.png", number + 1)
    (pictures / "broken.png").write_bytes(b"no picture")
    at = ("--workspace", str(home))
    assert main(["import", str(pictures), *at]) == 0, capsys.readouterr().err
    with open_workspace(home).catalog(read_only=True) as catalog:
        image = catalog.images.get(catalog.images.ids(limit=1)[0])
    row = SnapshotItem(
        image_id=image.id, image_sha256=image.sha256, kind="real", target=None, split=image.split
    )
    snapshot = open_workspace(home).snapshots.publish([row])
    for command in (
        ["export", str(tmp_path / "out"), "--format", "folder"],
        ["export", str(tmp_path / "hf"), "--format", "hf", "--snapshot", snapshot.id],
        ["backup"],
        ["gc"],
        ["status"],
        ["erase", image.id],
    ):
        assert main([*command, *at]) == 0, capsys.readouterr().err
    assert len(list(home.rglob("*"))) > 15
    blobs = {path for path in readable(home) if f"{home}/blobs/" in path}
    assert set(readable(home)) == blobs, "blobs were put by this test itself, outside any command"
    assert not readable(tmp_path / "out") and not readable(tmp_path / "hf")
