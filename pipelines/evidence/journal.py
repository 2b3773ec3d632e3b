"""What `clinic evidence` keeps between its runs: the parts that are done, their results, time and memory."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.bounds import read_config
from dataengine.records import Report, no_report

FILE = "evidence-state.json"
KEEP_SECONDS = 10.0
"""Time that a kill may cost a part's hours."""
GIGABYTE = 1e9
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Journal:
    """The file, read once and rewritten whole; a part's row holds `seconds`, `runs`, peaks, and its result
    once it is done."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        found = read_config(self._file) if self._file.is_file() else {}
        self._rows: dict[str, Any] = found if isinstance(found, dict) else {}
        self._rows.setdefault("created", time.time())
        self._rows.setdefault("parts", {})

    @property
    def created(self) -> float:
        """When the first run began, in seconds since 1970."""
        return float(self._rows["created"])

    def row(self, part: str) -> dict[str, Any]:
        """What is known of a part; {} of one that did not begin."""
        return dict(self._rows["parts"].get(part, {}))

    def result(self, part: str) -> Any:
        """The part's result; None while it is not done."""
        return self.row(part).get("result")

    def finish(self, part: str, result: dict[str, Any]) -> None:
        """Store the result of a part that is done."""
        self._update(part, {"result": json.loads(json.dumps(result))})

    @contextmanager
    def timed(self, part: str, device: str, report: Report = no_report) -> Iterator[Report]:
        """Add the block's time and peaks to the part, also where it fails; yields a report that keeps the
        time on the way, so that a kill costs little of it."""
        row = self.row(part)
        before, began, kept = float(row.get("seconds", 0.0)), time.monotonic(), time.monotonic()
        reset_peaks(device)
        self._update(part, {"runs": int(row.get("runs", 0)) + 1})

        def keeping(done: float, total: int, message: str = "", **figures: float) -> None:
            nonlocal kept
            if time.monotonic() - kept > KEEP_SECONDS:
                kept = time.monotonic()
                self._update(part, {"seconds": before + kept - began})
            report(done, total, message, **figures)

        try:
            yield keeping
        finally:
            peaks = {
                name: max(filter(None, (row.get(name), now)), default=None)
                for name, now in read_peaks(device).items()
            }
            self._update(part, {"seconds": before + time.monotonic() - began, **peaks})

    def _update(self, part: str, values: dict[str, Any]) -> None:
        self._rows["parts"][part] = self.row(part) | values
        durable.write_text(self._file, json.dumps(self._rows, indent=1) + "\n")


def reset_peaks(device: str) -> None:
    """Begin to measure peaks anew, where the system can: Linux for the host, CUDA for a GPU."""
    with suppress(OSError):
        RESET.write_text("5")
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def read_peaks(device: str) -> dict[str, float | None]:
    """Peaks in 10⁹ bytes since `reset_peaks`: of the process's resident memory, and of torch's allocator."""
    host, on_device = None, None
    with suppress(OSError, ValueError, StopIteration):
        line = next(one for one in STATUS.read_text().splitlines() if one.startswith("VmHWM"))
        host = int(line.split()[1]) * 1024 / GIGABYTE
    if device.startswith("cuda"):
        import torch

        on_device = torch.cuda.max_memory_allocated(device) / GIGABYTE
    return {"host_gb_peak": host, "device_gb_peak": on_device}
