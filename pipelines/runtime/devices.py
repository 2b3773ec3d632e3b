"""Which device work runs on, and one lock for each, so that two trainings never meet on one GPU."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def default_device() -> str:
    """The first NVIDIA GPU by its device file, or "cpu"; asks no driver and loads no library."""
    if (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")
        and Path("/dev/nvidia0").exists()
    ):
        return "cuda:0"
    return "cpu"


def lock_file(device: str, workspace: Path) -> Path:
    """GPUs are locked for the whole machine, the one "cpu" slot for each workspace."""
    if device == "cpu":
        return workspace / "locks" / "cpu.lock"
    return machine_folder() / f"{device.replace(':', '-')}.lock"


def machine_folder() -> Path:
    """This user's folder for locks and sockets on this machine, closed to others."""
    folder = Path(tempfile.gettempdir()) / f"artifact-clinic-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    return folder


@contextmanager
def device_lock(
    device: str, workspace: Path, waiting: Callable[[str], None] = lambda message: None
) -> Iterator[None]:
    """Hold the device alone; `waiting` is told about twice a second who else holds it.

    The kernel lets go of the lock when the holder dies.
    """
    path = lock_file(device, workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        while not try_lock(file.fileno()):
            file.seek(0)
            waiting(f"waiting for {device}, in use by process {file.read().strip() or 'unknown'}")
            time.sleep(0.5)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file if nobody holds it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
