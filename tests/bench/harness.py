"""The one way in which benchmarks measure, print and write `build/bench/NAME.json`.

Every figure is a value with an interval, a unit, how many samples it stands on, and a note. A claim is a
figure whose value is a bool. Curves go to CSV files beside the JSON and are named in a note.
"""

import csv
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dataengine.statistics import Interval, bootstrap_weights, percentile_interval, wilson

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `interval` is its 95 % interval where one can be given."""

    id: str
    value: float | bool | str
    interval: Interval | None
    unit: str
    n: int
    note: str

    def __post_init__(self) -> None:
        numbers = [self.value, *(self.interval or ())]
        if not all(math.isfinite(number) for number in numbers if not isinstance(number, str)):
            raise ValueError(f"figure {self.id} is {self.value} {self.interval}: every figure must be finite")


def figure(
    id: str,
    value: float | bool | str,
    interval: Interval | None = None,
    unit: str = "",
    n: int = 1,
    note: str = "",
) -> Figure:
    """A figure from plain or NumPy numbers."""
    plain = value.item() if isinstance(value, np.generic) else value
    bounds = (float(interval[0]), float(interval[1])) if interval is not None else None
    return Figure(id, plain, bounds, unit, int(n), note)


def quick() -> bool:
    """`QUICK=1`: prove in under a minute that the command works."""
    return os.environ.get("QUICK", "") not in ("", "0")


def full() -> bool:
    """`FULL=1`: the long, resumable form."""
    return os.environ.get("FULL", "") not in ("", "0")


def device() -> str:
    """Where the models of a benchmark lie: `DEVICE=cpu` or `DEVICE=cuda`, else a GPU where there is one."""
    import torch

    return os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def bootstrap(
    samples: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of `statistic` over resampled rows (Efron 1979).

    `samples` is one row per independent unit: for paired comparisons give the pairs' differences, or one row
    per pair and a statistic that reads both columns.
    """
    rows = np.asarray(samples)
    weights = bootstrap_weights(len(rows), draws, seed)
    if statistic is np.mean and rows.ndim == 1:
        return percentile_interval(weights @ rows / len(rows))
    return percentile_interval([statistic(np.repeat(rows, w.astype(int), axis=0)) for w in weights])


def share(id: str, successes: int, n: int, note: str = "") -> Figure:
    """A share of `n` with its Wilson interval."""
    return figure(id, successes / n, wilson(successes, n), "share", n, note)


def mean(id: str, samples: ArrayLike, unit: str = "", note: str = "", seed: int = 0) -> Figure:
    """The mean of independent samples with its bootstrap interval."""
    rows = np.asarray(samples, dtype=np.float64)
    return figure(id, float(rows.mean()), bootstrap(rows, seed=seed), unit, len(rows), note)


def p95(id: str, samples: ArrayLike, unit: str = "ms", note: str = "", seed: int = 0) -> Figure:
    """The 95th percentile of independent samples with its bootstrap interval."""
    rows = np.asarray(samples, dtype=np.float64)
    worst = bootstrap(rows, lambda drawn: float(np.percentile(drawn, 95)), seed=seed)
    return figure(id, float(np.percentile(rows, 95)), worst, unit, len(rows), note)


def missed(of: Figure, *, at_least: float | None = None, at_most: float | None = None) -> bool:
    """Whether the figure fails its target: only an interval that misses entirely does."""
    low, high = of.interval or (float(of.value), float(of.value))
    return (at_least is not None and high < at_least) or (at_most is not None and low > at_most)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def timing_ratio(
    id: str, a: Callable[[], object], b: Callable[[], object], pairs: int = 9, note: str = ""
) -> Figure:
    """Median of time(a) / time(b) over interleaved pairs, with its bootstrap interval.

    One unmeasured call of each warms up; which of the two goes first alternates, so that drift cancels.
    """
    a(), b()
    ratios = []
    for pair in range(pairs):
        first, second = (seconds(a), seconds(b)) if pair % 2 == 0 else reversed((seconds(b), seconds(a)))
        ratios.append(first / second)
    middle = lambda drawn: float(np.median(drawn))  # noqa: E731
    return figure(id, float(np.median(ratios)), bootstrap(ratios, middle), "ratio", pairs, note)


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, memory, accelerator, system and load (1, 5, 15 min)."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _gpu_name(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0] or None


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit measured; a trailing `+` says that tracked files differ from it."""
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return (_output("git", "rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def write(name: str, figures: Iterable[Figure], seeds: Sequence[int] = ()) -> Path:
    """Print the table and write `build/bench/NAME.json`; its path."""
    found = list(figures)
    if len({one.id for one in found}) != len(found):
        raise ValueError(f"benchmark {name} names a figure twice: {sorted(one.id for one in found)}")
    result = {
        "name": name,
        "commit": commit(),
        "quick": quick(),
        "machine": machine(),
        "seeds": list(seeds),
        "figures": [asdict(one) for one in found],
    }
    path = _target(f"{name}.json")
    _replace(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(table(found))
    print(f"\n{'QUICK figures prove nothing but that the command works. ' if quick() else ''}Written: {path}")
    return path


def curve(name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """Write columns of one length to `build/bench/NAME.csv`; its file name, for a figure's note."""
    path = _target(f"{name}.csv")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return path.name


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text, one line each."""
    rows = [("figure", "value", "95 % interval", "unit", "n", "note")]
    rows += [
        (one.id, _text(one.value), _span(one.interval), one.unit, str(one.n), one.note) for one in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[5]]).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _text(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _span(interval: Interval | None) -> str:
    return f"{_text(interval[0])} … {_text(interval[1])}" if interval else ""


def _target(file_name: str) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    return RESULTS / file_name


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(text)
    fresh.replace(path)
