"""Power cuts: a workspace on a file system of its own, in a file that is copied while people work.

    with PowerCuts(folder) as disk:       # ext4 in a file, on a loop device; needs root
        with disk.people() as people:     # a child process in which people submit labels
            time.sleep(1)
            found = disk.cut(people)      # the copy, mounted elsewhere, journal replayed

At a cut the people are stopped (SIGSTOP) and the file is read until two readings agree, so that the copy is
one moment of the disk: what the kernel had not yet written to it is lost, as in a real cut. All answers that
the people had heard yes to before are looked for in the copy: the row, and its blob, byte for byte.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from sqlalchemy import event, select
from sqlalchemy.exc import SQLAlchemyError

from dataengine.errors import ClinicError
from dataengine.masks import pack_label_map
from dataengine.records import Image, QueueItem
from storage import tables
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
READY = b"ready"


@dataclass(frozen=True)
class Cut:
    """What a power cut left."""

    acknowledged: int
    lost: tuple[str, ...]
    """Acknowledged answers whose row is not there, is another, or whose blob cannot be read."""
    dangling: tuple[str, ...]
    """Rows, acknowledged or not, whose blob cannot be read."""
    oldest_lost_s: float
    """How long before the cut the oldest lost answer was acknowledged."""


def why_not() -> str | None:
    """Why no loop device can be had here; None where one can."""
    if os.geteuid() != 0:
        return "mounting a loop device needs root: the power cut cannot be simulated"
    missing = [program for program in ("mkfs.ext4", "mount", "umount") if shutil.which(program) is None]
    if missing or not Path("/dev/loop-control").exists():
        return f"no loop device can be had here ({', '.join(missing) or 'no /dev/loop-control'})"
    return None


@dataclass
class People:
    """The child process in which people answer, and what they have heard yes to."""

    process: subprocess.Popen[bytes]
    acknowledged: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    _rest: bytes = b""

    def wait(self) -> None:
        """Wait until they begin. Raises `RuntimeError` when the process ended before."""
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != READY:
            raise RuntimeError(f"the people ended with {self.process.wait(20)}")
        os.set_blocking(self.process.stdout.fileno(), False)

    def heard(self) -> list[tuple[float, dict[str, str]]]:
        """All that was acknowledged so far, with the time at which it was."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
                self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        self.acknowledged += [(found.pop("at"), found) for found in map(json.loads, lines)]
        return self.acknowledged

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nobody moves while the block runs."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            until = time.monotonic() + 10
            while not self._all_stopped() and time.monotonic() < until:
                time.sleep(0.001)
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def _all_stopped(self) -> bool:
        states = []
        for each in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError):
                states.append(each.read_text().rpartition(")")[2].split()[0])
        return all(state in "TtZX" for state in states)


class PowerCuts:
    """A mounted ext4 file system in a file, and copies of it."""

    def __init__(self, folder: Path, mib: int = 96) -> None:
        self.folder, self.mib = folder, mib
        self.image, self.mounted = folder / "disk", folder / "mounted"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self.mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True, timeout=60)
        self._stack.enter_context(mount(self.image, self.mounted))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def people(
        self, count: int = 4, side: int = 64, images: int = 600, durable: bool = True
    ) -> Iterator[People]:
        """People who answer one image after the other until the block ends.

        With `durable` false nothing waits for the disk: the control.
        """
        command = [sys.executable, "-m", "tests.power", str(self.mounted / "workspace")]
        command += [str(count), str(side), str(images), "durable" if durable else "careless"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0) as process:
            people = People(process)
            try:
                people.wait()
                yield people
            finally:
                process.kill()
                process.wait(20)

    def cut(self, people: People) -> Cut:
        """Cut the power now, and look at what is there afterwards; the people go on without noticing."""
        copy = self.folder / "copy"
        with people.stopped():
            acknowledged, moment = list(people.heard()), time.time()
            copy_at_rest(self.image, copy)
        try:
            with mount(copy, self.folder / "after") as where:
                return compare(where / "workspace", acknowledged, moment)
        finally:
            copy.unlink()


@contextlib.contextmanager
def mount(image: Path, where: Path) -> Iterator[Path]:
    """The file system in a file, mounted while the block runs."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True, timeout=60)
    try:
        yield where
    finally:
        for last in (False, False, True):
            done = subprocess.run(
                ["umount", *(["-l"] if last else []), str(where)], check=False, capture_output=True
            )
            if done.returncode == 0:
                break
            time.sleep(0.2)


def copy_at_rest(source: Path, target: Path) -> None:
    """Copy a file at one moment: it is read until two readings agree."""
    before = source.read_bytes()
    for _ in range(200):
        again = source.read_bytes()
        if again == before:
            break
        before = again
    else:
        raise RuntimeError("the disk never rested, although nobody moved")
    with target.open("wb") as file:
        for start in range(0, len(before), MIB):
            part = before[start : start + MIB]
            if part.strip(b"\0"):
                file.seek(start)
                file.write(part)
        file.truncate(len(before))


def compare(folder: Path, acknowledged: list[tuple[float, dict[str, str]]], moment: float) -> Cut:
    """What of the acknowledged answers is in the workspace."""
    labels = tables.labels.c
    try:
        workspace = open_workspace(folder)
        with workspace.catalog(read_only=True) as catalog:
            found = catalog.connection.execute(select(labels.image_id, labels.author, labels.label_map))
            rows = {(row.image_id, row.author): row.label_map for row in found}
        dangling = {blob for blob in rows.values() if not readable(workspace, blob)}
        workspace.close()
    except (ClinicError, SQLAlchemyError):  # not even a catalog: all is lost
        rows, dangling = {}, set()
    lost = [
        (at, answer["image"])
        for at, answer in acknowledged
        if rows.get((answer["image"], answer["author"])) != answer["blob"] or answer["blob"] in dangling
    ]
    return Cut(
        acknowledged=len(acknowledged),
        lost=tuple(image for _, image in lost),
        dangling=tuple(sorted(dangling)),
        oldest_lost_s=max((moment - at for at, _ in lost), default=0.0),
    )


def readable(workspace: Workspace, blob: str) -> bool:
    """Whether a blob is there and holds what its name says."""
    try:
        workspace.blobs.get(blob)
    except ClinicError:
        return False
    return True


# ---- in the child process ----------------------------------------------------------------------------------


def strokes(number: int, side: int) -> str:
    """A label map that is different for every number, packed."""
    drawn = np.zeros((side, side), np.uint8)
    top, left = np.random.default_rng([5, number]).integers(0, side // 2, 2)
    drawn[top : top + 5 + number % 20, left : left + side // 3] = 1 + number % 3
    drawn[-1, : 1 + number % side] = 1 + number // side % 3
    return base64.b64encode(pack_label_map(drawn)).decode()


def careless(workspace: Workspace) -> None:
    """From now on nothing waits for the disk, in this process."""
    workspace.engine.dispose()
    event.listen(
        workspace.engine, "connect", lambda connection, entry: connection.execute("PRAGMA synchronous=OFF")
    )
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


def work(
    path: Path, count: int, side: int, images: int, durable: bool, seconds: float = float("inf")
) -> None:
    """People answer images for some seconds, or until the process is killed; every yes that they hear is a
    line."""
    from pipelines.services.annotation import Annotation, submit_answer, take_lease

    workspace = create_workspace(path)
    ids = [f"image-{number}" for number in range(images)]
    with workspace.catalog() as catalog:
        catalog.images.add_many(Image(id=id, sha256=id, height=side, width=side) for id in ids)
        catalog.queue.add_many(QueueItem(image_id=id, round_id="r") for id in ids)
        catalog.commit()
    os.sync()
    if not durable:
        careless(workspace)
    numbers, answered = itertools.count(), sys.stdout.fileno()
    os.write(answered, READY + b"\n")

    until = time.monotonic() + seconds

    def answer(author: str) -> None:
        while time.monotonic() < until:
            with workspace.catalog() as catalog:
                lease = take_lease(catalog, author, 600, set())
                catalog.commit()
            if lease is None:
                return
            body = Annotation(
                lease=lease.id, image=lease.image_id, revision=0, label_map=strokes(next(numbers), side)
            )
            label = submit_answer(workspace, body, author)
            heard = {"at": time.time(), "image": label.image_id, "author": author, "blob": label.label_map}
            os.write(answered, (json.dumps(heard) + "\n").encode())

    threads = [threading.Thread(target=answer, args=(f"person-{number}",)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if seconds == float("inf"):
        signal.pause()


if __name__ == "__main__":
    place, count, side, images, kind, *seconds = sys.argv[1:]
    work(Path(place), int(count), int(side), int(images), kind == "durable", *map(float, seconds))
