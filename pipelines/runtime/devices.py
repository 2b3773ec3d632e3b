"""Devices, and a lock for each, so that two jobs never run on one GPU at the same time."""

import contextlib
import fcntl
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.errors import OutOfMemory, out_of_memory

STATM = Path("/proc/self/statm")


def lock_file(device: str, workspace: Path) -> Path:
    """The device's lock file: GPUs are locked per machine, the CPU per workspace."""
    if device == "cpu":
        return workspace / "locks" / "cpu.lock"
    return machine_folder() / f"{device.replace(':', '-')}.lock"


def machine_folder() -> Path:
    """This user's private folder for locks and sockets on this machine."""
    folder = Path(tempfile.gettempdir()) / f"artifact-clinic-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder


@contextmanager
def device_lock(
    device: str, workspace: Path, waiting: Callable[[str], None] = lambda message: None
) -> Iterator[None]:
    """Hold the device exclusively; while it is in use, `waiting` is called about twice a second with a
    message
    that names the holder.

    The kernel releases the lock when the holder dies.
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
    """Try to take an exclusive lock on an open file; returns whether it was free."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def naming_out_of_memory(work: str, less: str) -> Iterator[None]:
    """Raises `OutOfMemory`, saying what `work` ran out of memory and what needs `less`, for whatever torch,
    numpy or Python raise."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(f"{work} ran out of memory; {less}") from error


def release_memory(device: str) -> None:
    """Free what nothing refers to any more: a tuned pipeline refers to itself, and torch keeps the memory of
    a GPU that was freed."""
    gc.collect()
    if device.startswith(("cuda", "mps")):
        import torch

        (torch.mps if device == "mps" else torch.cuda).empty_cache()


def device_kind(device: str) -> str:
    """The kind of a device, for costs: the name of a GPU, else "cpu" or "mps"."""
    if not device.startswith("cuda"):
        return device.partition(":")[0]
    import torch

    return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "cuda"


def memory_in_use(device: str) -> dict[str, int]:
    """Bytes of the device that are `used`, by all processes, and its `total`; empty before torch uses it.

    Of "cpu" the memory of this process, and that of the machine. Never loads torch.
    """
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info(device)
        return {"used": total - free, "total": total}
    if device == "cpu" and STATM.is_file():
        page = os.sysconf("SC_PAGE_SIZE")
        resident = int(STATM.read_text().split()[1])
        return {"used": resident * page, "total": os.sysconf("SC_PHYS_PAGES") * page}
    return {}
