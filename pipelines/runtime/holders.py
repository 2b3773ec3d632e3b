"""Whether the process that holds a job on this machine has died, known at once instead of by its lease."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.runtime.devices import try_lock


@contextmanager
def sign_of_life(workspace: Path, holder: str) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process dies, however it dies."""
    path = _file(workspace, holder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try_lock(file.fileno())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def died_here(workspace: Path, holder: str) -> bool:
    """Whether this holder, named as `local_name` does, ran on this machine and died."""
    if not holder.startswith(local_name("")):
        return False
    try:
        with _file(workspace, holder).open("r+") as file:
            return try_lock(file.fileno())
    except FileNotFoundError:
        return False


def local_name(id: str) -> str:
    """The name of a command of this machine that runs a job itself."""
    return f"{socket.gethostname()}-here-{id}"


def _file(workspace: Path, holder: str) -> Path:
    return workspace / "locks" / f"holder-{holder}"
