"""Power cuts without a loop device: recorded writes and syncs, replayed up to a cut.

`recorded` runs the people of `tests.power` under strace. `cut` then replays their system calls up to one of
them and keeps what a power cut at this moment would leave for certain: file contents as of each file's last
sync, and names as of their folder's last sync. Everything that was not synced is dropped. This is stricter
than a real disk, which keeps some of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.power import READY, ROOT, Cut, compare

TRACED = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fsync,fdatasync,sync,syncfs,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendfile,copy_file_range,"
    "fallocate"
)
CALL = re.compile(r"\d+ +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)(?:<.*>)?(?: .*)?")
BEGUN = re.compile(r"(?P<thread>\d+) +(?P<start>.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)")
OPENED = re.compile(r"(?:\d+|AT_FDCWD)<(?P<path>(?:\\x[0-9a-f]{2})*)[^>]*>")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def plain(hexadecimal: str) -> bytes:
    """The bytes of strace's `\\x2f\\x74`."""
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def why_not() -> str | None:
    """Why nothing can be recorded here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed, so writes and syncs cannot be recorded"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True)
    return None if tried.returncode == 0 else "strace may not trace processes here"


@dataclass(frozen=True)
class Call:
    """One system call that succeeded."""

    name: str
    arguments: str
    result: int

    @property
    def texts(self) -> list[bytes]:
        return [plain(each) for each in TEXT.findall(self.arguments)]

    @property
    def opened(self) -> str:
        """The path behind the descriptor that the call takes first."""
        found = OPENED.match(self.arguments)
        return plain(found["path"]).decode() if found else ""


def recorded(folder: Path, count: int, side: int, images: int, seconds: float, durable: bool) -> list[Call]:
    """The system calls of people who work in `folder/workspace` for some seconds, in the order in which they
    ended."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "record"
    watched = [
        "strace",
        "-f",
        "-y",
        "-qq",
        "-xx",
        "-s",
        str(1 << 24),
        "-e",
        f"trace={TRACED}",
        "-o",
        str(record),
    ]
    people = [
        sys.executable,
        "-m",
        "tests.power",
        str(folder / "workspace"),
        str(count),
        str(side),
        str(images),
    ]
    people += ["durable" if durable else "careless", str(seconds)]
    with subprocess.Popen([*watched, *people], cwd=ROOT, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate(timeout=300)
    if not said.startswith(READY):
        raise RuntimeError(f"the people ended with {process.returncode} before they began")
    return list(calls_in(record))


def calls_in(record: Path) -> Iterator[Call]:
    """The finished calls of a record. Those of other lines, such as signals, are passed over."""
    unfinished: dict[str, str] = {}
    with record.open(encoding="ascii", errors="replace") as lines:
        for line in map(str.rstrip, lines):
            if found := BEGUN.fullmatch(line):
                unfinished[found["thread"]] = found["start"]
                continue
            if found := RESUMED.fullmatch(line):
                line = f"{found['thread']} {unfinished.pop(found['thread'])}{found['rest']}"
            if (found := CALL.fullmatch(line)) and int(found["result"]) >= 0:
                yield Call(found["name"], found["arguments"], int(found["result"]))


@dataclass
class File:
    """A file: its content now, and as of its last sync."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


class Disk:
    """What was written below a folder, and what of it is certain to survive a cut."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names: dict[str, File] = {}
        self.folders: set[str] = {self.root}
        self.synced: dict[str, dict[str, File | None]] = {self.root: {}}
        """Names of each folder as of its last sync; None for a folder."""
        self._offsets: dict[tuple[str, str], int] = {}

    def apply(self, call: Call) -> None:
        """The effect of one call. Raises `NotImplementedError` for one that is not understood."""
        if call.name in ("openat", "creat"):
            self._open(call)
        elif call.name in ("write", "pwrite64"):
            self._write(call)
        elif call.name in ("fsync", "fdatasync"):
            self._sync(call.opened)
        elif call.name in ("sync", "syncfs"):
            for path in [*self.names, *self.folders]:
                self._sync(path)
        elif call.name.startswith("rename"):
            source, target = self._paths(call)
            if self._inside(target):
                self._rename(source, target)
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            (path,) = self._paths(call)
            self.names.pop(path, None)
            self.folders.discard(path)
        elif call.name in ("mkdir", "mkdirat"):
            (path,) = self._paths(call)
            if self._inside(path):
                self.folders.add(path)
        elif call.name == "ftruncate":
            if file := self.names.get(call.opened):
                size = int(call.arguments.rpartition(", ")[2])
                del file.content[size:]
                file.content.extend(b"\0" * (size - len(file.content)))
        elif self._inside(call.opened):
            raise NotImplementedError(f"{call.name} of {call.opened} cannot be replayed")

    def left(self, target: Path) -> None:
        """Write what survives below `target`."""
        self._leave(self.root, target)

    def _leave(self, folder: str, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name, file in self.synced.get(folder, {}).items():
            if file is None:
                self._leave(f"{folder}/{name}", target / name)
            else:
                (target / name).write_bytes(file.synced)

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root}/")

    def _paths(self, call: Call) -> list[str]:
        """The absolute paths that a call names, relative ones by the folder that it was given."""
        bases = [plain(path).decode() for path in OPENED.findall(call.arguments)]
        texts = [text.decode() for text in call.texts]
        return [
            text if text.startswith("/") else f"{bases[min(index, len(bases) - 1)]}/{text}" if bases else text
            for index, text in enumerate(texts)
        ]

    def _open(self, call: Call) -> None:
        (path,) = self._paths(call)
        if not self._inside(path) or "O_DIRECTORY" in call.arguments or path in self.folders:
            return
        if path not in self.names and ("O_CREAT" in call.arguments or call.name == "creat"):
            self.names[path] = File()
        if path in self.names and ("O_TRUNC" in call.arguments or call.name == "creat"):
            self.names[path].content.clear()
        self._offsets[path, str(call.result)] = 0

    def _write(self, call: Call) -> None:
        file = self.names.get(call.opened)
        if file is None or call.opened.endswith("-shm"):
            return
        data = call.texts[0][: call.result]
        if call.name == "pwrite64":
            offset = int(call.arguments.rpartition(", ")[2])
        else:
            key = call.opened, call.arguments.partition("<")[0]
            offset = self._offsets.get(key, 0)
            self._offsets[key] = offset + len(data)
        file.content.extend(b"\0" * (offset - len(file.content)))
        file.content[offset : offset + len(data)] = data

    def _sync(self, path: str) -> None:
        if file := self.names.get(path):
            file.synced = bytes(file.content)
        if path in self.folders:
            below = f"{path}/"
            files = {p.removeprefix(below): f for p, f in self.names.items() if p.startswith(below)}
            inner = {p.removeprefix(below): None for p in self.folders if p.startswith(below)}
            self.synced[path] = {name: each for name, each in {**files, **inner}.items() if "/" not in name}

    def _rename(self, source: str, target: str) -> None:
        if source in self.names:
            self.names[target] = self.names.pop(source)
            return
        for path in [each for each in self.names if each.startswith(f"{source}/")]:
            self.names[target + path.removeprefix(source)] = self.names.pop(path)
        for path in [each for each in self.folders if each == source or each.startswith(f"{source}/")]:
            self.folders.discard(path)
            self.folders.add(target + path.removeprefix(source))
            self.synced[target + path.removeprefix(source)] = self.synced.pop(path, {})


def answers_in(calls: list[Call]) -> Iterator[tuple[int, dict[str, str]]]:
    """Position and content of every yes that a person heard."""
    for position, call in enumerate(calls):
        if call.name == "write" and call.arguments.startswith("1<"):
            yield from ((position, json.loads(line)) for line in call.texts[0].splitlines() if line != READY)


def cuts(
    folder: Path, count: int, rng: Random, seconds: float, durable: bool, side: int = 64
) -> Iterator[Cut]:
    """Cuts at random moments of one record of four people's work."""
    calls = recorded(folder, 4, side, 2000, seconds, durable)
    (first, _), *_ = answers_in(calls)
    for number in range(count):
        yield cut(calls, folder / "workspace", rng.randrange(first + 1, len(calls)), folder / f"cut{number}")


def cut(calls: list[Call], workspace: Path, position: int, target: Path) -> Cut:
    """A power cut before the call at `position`: what was acknowledged before, looked for in what is left."""
    disk = Disk(workspace.parent)
    for call in calls[:position]:
        disk.apply(call)
    disk.left(target)
    heard = [(float(answer.pop("at")), answer) for at, answer in answers_in(calls) if at < position]
    return compare(target / workspace.name, heard, max((at for at, _ in heard), default=0.0))
