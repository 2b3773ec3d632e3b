"""Shared by all benchmarks: measure, print and write `build/bench/NAME.json`, and cache expensive results.

Every figure is a value with an interval, a unit, how many samples it stands on, and a note. A claim is a
figure whose value is a bool. Curves go to CSV files beside the JSON and are named in a note. What a bench
keeps in order to resume lies with its `Keeper`, under a key of all that it depends on.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel

from dataengine.statistics import Interval, bootstrap_weights, percentile_interval, wilson
from tests.bench.source_hash import source_hash, weights_hash

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench"
MEASURED = ROOT / "docs" / "measured"
"""What finished parts of a `FULL=1` run leave, to be committed."""


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


def fresh() -> bool:
    """`FRESH=1`: use nothing that an earlier run kept."""
    return os.environ.get("FRESH", "") not in ("", "0")


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


def _load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


LOAD_BEFORE = _load()
"""The machine's load before this process added its own."""


def machine() -> dict[str, Any]:
    """What was measured on: its name, load before and now (1, 5, 15 min), and its parts."""
    cpu, gpu, cores = _cpu_name(), _gpu_name(), os.cpu_count()
    return {
        "name": ", ".join(filter(None, (gpu, f"{cores} cores of {cpu}"))),
        "load": _load(),
        "load_before": LOAD_BEFORE,
        "cpu": cpu,
        "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
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
    """The commit checked out; a trailing `+dirty` says that files differ from it, results in `docs` aside."""
    changed = _output("git", "status", "--porcelain", "--", ".", ":(exclude)docs")
    return (_output("git", "rev-parse", "--short=12", "HEAD") or "unknown") + ("+dirty" if changed else "")


COMMIT_BEFORE = commit()
"""What this process began with; a bench of hours may see another one at its end."""


def commit_measured() -> str:
    """The commit that the process began with, dirty also where the files have changed since."""
    same = commit() == COMMIT_BEFORE
    return COMMIT_BEFORE if same else f"{COMMIT_BEFORE.removesuffix('+dirty')}+dirty"


def result_of(name: str, figures: Iterable[Figure], seeds: Sequence[int]) -> dict[str, Any]:
    """The written form of a bench's figures. Raises `ValueError` where an id comes twice."""
    found = list(figures)
    if len({one.id for one in found}) != len(found):
        raise ValueError(f"benchmark {name} names a figure twice: {sorted(one.id for one in found)}")
    return {
        "name": name,
        "commit": commit_measured(),
        "quick": quick(),
        "machine": machine(),
        "seeds": list(seeds),
        "figures": [asdict(one) for one in found],
    }


def write(name: str, figures: Iterable[Figure], seeds: Sequence[int] = ()) -> Path:
    """Print the table and write `build/bench/NAME.json`; its path."""
    found = list(figures)
    result = result_of(name, found, seeds)
    path = _target(f"{name}.json")
    _replace(path, _text_of(result))
    where = result["machine"]
    print(table(found))
    print(f"\nCommit {result['commit']} on {where['name']}, load {where['load_before']} to {where['load']}.")
    print(f"{'QUICK figures only prove that the command works. ' if quick() else ''}Written: {path}")
    return path


def leave(name: str, part: str, figures: Iterable[Figure], seeds: Sequence[int], key: str = "") -> None:
    """With `FULL=1`, leave a finished part's figures in `docs/measured/NAME/PART.json`.

    A part that stands there under the same key keeps the commit and machine that it was measured with.
    """
    if not full() or quick():
        return
    path = MEASURED / name / f"{_slug(part)}.json"
    if key and not fresh() and path.is_file() and json.loads(path.read_text()).get("key") == key:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, _text_of(result_of(name, figures, seeds) | {"part": part, "key": key}))


def write_in_parts(
    name: str,
    parts: Mapping[str, Callable[[], Iterable[Figure]]],
    seeds: Sequence[int],
    key: str = "",
) -> list[Figure]:
    """Measure part after part and write all figures so far after each, so that a stopped bench has those.

    With `FULL=1` the parts and, at the end, the whole as `all` stand in `docs/measured/NAME/` besides.
    """
    figures: list[Figure] = []
    for part, measure in parts.items():
        found = list(measure())
        leave(name, part, found, seeds, key)
        figures += found
        write(name, figures, seeds)
    leave(name, "all", figures, seeds)
    return figures


def _text_of(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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


class Keeper:
    """What a bench keeps in `build/bench/kept/NAME/KEY` so that a stopped run resumes.

    The key covers the source that made it, by `modules` (the bench's own, and packages that it runs in other
    processes) and all that they import; `settings` (plain values, dataclasses or pydantic models); and
    `weights`, a hash or a file or folder of weights by name. With another key everything is made anew, and
    with `FRESH=1` too. Each thing has a name and settings of its own; names may hold slashes.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[str],
        settings: object = None,
        weights: Mapping[str, str | Path] | None = None,
        root: Path = ROOT,
    ) -> None:
        self.name, self.modules, self.root = name, tuple(modules), root
        self.settings, self.weights = settings, dict(weights or {})

    @cached_property
    def facts(self) -> dict[str, Any]:
        """All that the key is a hash of."""
        return {
            "source": source_hash(self.modules, self.root),
            "settings": _plain(self.settings),
            "weights": {
                name: weights_hash(where) if isinstance(where, Path) else where
                for name, where in self.weights.items()
            },
        }

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits."""
        return _digest(self.facts)

    @cached_property
    def place(self) -> Path:
        """The folder of this key; with `FRESH=1` the first process to ask empties it."""
        place = RESULTS / "kept" / self.name / self.key
        if fresh() and multiprocessing.parent_process() is None:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "key.json", _text_of(self.facts))
        return place

    def folder(self, name: str, settings: object = None) -> Path:
        """The folder of that name's files; it is not created, so that its absence means that they are
        missing."""
        digest = "" if settings is None else f"-{_digest(_plain(settings))}"
        path = self.place.joinpath(*(_slug(part) for part in f"{name}{digest}".split("/")))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def get(self, name: str, settings: object = None) -> Any | None:
        """The cached JSON value; None if there is none."""
        file = self._file(name, settings, ".json")
        return json.loads(file.read_text())["value"] if file.is_file() else None

    def keep(self, name: str, value: Any, settings: object = None) -> Any:
        """Keep a JSON value with the commit and machine that made it, and return it."""
        record = {"commit": commit_measured(), "machine": machine(), "value": value}
        _replace(self._file(name, settings, ".json"), _text_of(record))
        return value

    def arrays(
        self, name: str, make: Callable[[], Mapping[str, ArrayLike]], settings: object = None
    ) -> dict[str, np.ndarray]:
        """The cached arrays by name, computed if they are missing."""
        file = self._file(name, settings, ".npz")
        if not file.is_file():
            part = file.with_suffix(f".{os.getpid()}.part.npz")
            np.savez_compressed(part, **{key: np.asarray(value) for key, value in make().items()})
            part.replace(file)
        with np.load(file, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}

    def _file(self, name: str, settings: object, suffix: str) -> Path:
        folder = self.folder(name, settings)
        return folder.with_name(folder.name + suffix)


def _plain(value: object) -> Any:
    """Settings as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(vars(value) if hasattr(value, "__dict__") else asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name)
