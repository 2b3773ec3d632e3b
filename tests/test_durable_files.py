"""What is renamed into place is on the disk first, contents and name: a power cut leaves no empty file."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine import durable
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.training import train_detector
from storage.stores.blobs import Blobs
from storage.stores.checkpoints import Checkpoints
from tests.dataengine.diagnosis.tiny import SEGFORMER, examples

ROOT = Path(__file__).resolve().parents[1]
OWN_RENAMES = {
    "dataengine/durable.py",
    "storage/stores/blobs.py",  # one flush for many blobs
    "storage/stores/checkpoints.py",  # an old copy, out of the way
    "ui/client/transport.py",  # a wheel of its own, which syncs by itself
}


class Disk:
    """What a power cut would leave: which contents were synced, and whose folder was after its rename."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: dict[tuple[int, int], tuple[int, int]] = {}
        self.torn: list[str] = []
        self.waiting: dict[Path, Path] = {}
        self.renamed: list[str] = []
        self._fsync, self._replace, self._rename = os.fsync, os.replace, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", lambda source, target: self.move(source, target, self._replace))
        monkeypatch.setattr(os, "rename", lambda source, target: self.move(source, target, self._rename))

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        found = os.fstat(descriptor)
        self.synced[found.st_dev, found.st_ino] = (found.st_mtime_ns, found.st_size)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.waiting = {target: folder for target, folder in self.waiting.items() if folder != place}

    def move(self, source: Path | str, target: Path | str, act: object) -> None:
        source, target = Path(source), Path(target)
        for each in [source, *source.rglob("*")]:
            found = each.stat()
            if self.synced.get((found.st_dev, found.st_ino)) != (found.st_mtime_ns, found.st_size):
                self.torn.append(f"{each.name} as {target.name}")
        act(source, target)  # type: ignore[operator]
        self.renamed.append(target.name)
        self.waiting[target] = target.parent.resolve()

    def check(self) -> None:
        assert self.renamed, "nothing was renamed, so nothing was proven"
        assert not self.torn, f"renamed before their contents were on the disk: {self.torn}"
        lost = sorted(target.name for target in self.waiting if target.exists())
        assert not lost, f"names that nobody waited for: {lost}"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_the_disk_notices_what_is_not_waited_for(disk: Disk, tmp_path: Path) -> None:
    """The control: without syncs it does complain."""
    (tmp_path / "part").write_text("x")
    (tmp_path / "part").replace(tmp_path / "file")
    with pytest.raises(AssertionError, match="before their contents"):
        disk.check()
    disk.torn.clear()
    with pytest.raises(AssertionError, match="nobody waited"):
        disk.check()
    durable.write_text(tmp_path / "file", "y")
    disk.check()


def test_a_training_keeps_its_progress(disk: Disk, tmp_path: Path) -> None:
    config = DetectorTrainingConfig(
        detector=SEGFORMER, name="d", steps=2, batch=2, lr=1e-3, checkpoint_every=1, device="cpu"
    )
    train_detector(config, examples(4), None, tmp_path, validation=examples(4))
    disk.check()
    assert sum(name.startswith("checkpoint-") for name in disk.renamed) >= 1


def test_checkpoints_fetched_and_taken_over_are_whole(disk: Disk, tmp_path: Path) -> None:
    stores = [Checkpoints(Blobs(tmp_path / "blobs"), tmp_path / name) for name in ("here", "there")]
    scratch = stores[0].pending("work")
    (scratch / "inner").mkdir()
    (scratch / "inner" / "weights").write_bytes(bytes(1000))
    handed = stores[0].hand_over("work")
    stores[1].take_over("work", handed)
    there = stores[1].pending("work") / "inner" / "weights"
    found = there.stat()
    assert disk.synced.get((found.st_dev, found.st_ino)) == (found.st_mtime_ns, found.st_size)
    stores[1].fetch(handed)
    disk.check()


def renames(tree: ast.AST) -> Iterator[int]:
    """Lines that rename files. A string's `replace` takes two arguments, a path's one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, of = node.func.attr, node.func.value
            of_os = isinstance(of, ast.Name) and of.id in ("os", "shutil")
            if (of_os and name in ("replace", "rename", "renames", "move")) or (
                name in ("replace", "rename") and len(node.args) == 1 and not node.keywords
            ):
                yield node.lineno


def test_the_product_renames_through_durable_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("dataengine", "pipelines", "storage", "ui")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in OWN_RENAMES
        and not path.is_relative_to(ROOT / "dataengine" / "clinic")  # builds weights of the repository
        for line in renames(ast.parse(path.read_text()))
    ]
    assert not found, f"use dataengine.durable, which waits for the disk: {found}"
