"""A blob store that falls silent or refuses on demand, for tests and benches: `faulty://FOLDER`.

The store is the folder FOLDER, and the file `FOLDER.fault` says what it does: "silent" answers nothing until
the file is gone, "refusing" raises as a store whose server is down. A process that is to reach it imports
this module.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

PROTOCOL = "faulty"
POLL_SECONDS = 0.02


class FaultyStore(DirFileSystem):  # type: ignore[misc]
    """A folder behind a connection that can break."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix(f"{PROTOCOL}://").rstrip("/")


def behind_fault(name: str) -> Any:
    method = getattr(DirFileSystem, name)

    def call(self: FaultyStore, path: str, *args: Any, **options: Any) -> Any:
        meet_fault(path)
        return method(self, path, *args, **options)

    call.__name__ = name
    return call


def meet_fault(path: str) -> None:
    """Wait while the store is silent; raise while it refuses."""
    while (kind := fault_of(path)) == "silent":
        time.sleep(POLL_SECONDS)
    if kind == "refusing":
        raise ConnectionRefusedError(111, "Connection refused")


def fault_of(path: str) -> str:
    for folder in Path(str(path)).parents:
        file = folder.with_name(f"{folder.name}.fault") if folder.name else folder / ".fault"
        try:
            return file.read_text()
        except OSError:
            continue
    return ""


for each in (
    "open",
    "cat_file",
    "pipe_file",
    "put_file",
    "isfile",
    "exists",
    "size",
    "info",
    "rm_file",
    "makedirs",
):
    setattr(FaultyStore, each, behind_fault(each))

fsspec.register_implementation(PROTOCOL, FaultyStore, clobber=True)


def url(folder: Path) -> str:
    """The store in that folder."""
    return f"{PROTOCOL}://{folder}"


@contextmanager
def fault(folder: Path, kind: str) -> Iterator[None]:
    """The store in the folder is "silent" or "refusing" while the block runs, in every process."""
    file = folder.with_name(f"{folder.name}.fault")
    fresh = file.with_suffix(".new")
    fresh.write_text(kind)
    fresh.replace(file)
    try:
        yield
    finally:
        file.unlink()
