"""`make bench-loop`: whole demos with three seeds, each in a workspace of its own, and the figures of their
reports.

A seed's run is the command that people type, in a process of its own; its memory is that of the process and
all of its children together, sampled every three seconds. A finished seed is kept (see `Keeper`); one that
was stopped begins again, since half a run has no wall time. `QUICK=1` runs the smallest recipe once.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from dataengine.clinic import parts as clinic_parts
from tests.bench.harness import ROOT, Figure, Keeper, figure, leave, quick, write

SEEDS = (0, 1, 2)
RATIOS = (
    "mse_ratio",
    "kl1m_ratio",
    "mse_clean_ratio",
    "mean_conf_ratio",
    "true_freq_ratio",
    "attribute_drop",
    "detail_ratio",
    "diversity_ratio",
)
SIGHT = (
    "miss_before",
    "miss_after",
    "miss_after_minus_before",
    "false_alarm_after",
    "miss_unreasonable_after",
    "pixel_ap_gain",
    *(
        f"{id}_at_half"
        for id in (
            "miss_before",
            "miss_after",
            "miss_after_minus_before",
            "false_alarm_after",
            "miss_unreasonable_after",
        )
    ),
)
SAMPLE_SECONDS = 3.0


@dataclass(frozen=True)
class Run:
    """One seed's report, its wall time in seconds and its peak memory in GB."""

    seed: int
    report: dict[str, Any]
    seconds: float
    peak_gb: float

    def figure(self, id: str) -> dict[str, Any] | None:
        return next((one for one in self.report["figures"] if one["id"] == id), None)


KEEPER = Keeper(
    "loop",
    modules=("tests.bench.loop", "app"),
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


def run(seed: int, recipe: str) -> Run:
    """The demo with a seed, or what an earlier call measured with the same source."""
    name = f"{recipe}-{seed}"
    found = KEEPER.get(name)
    if found is None:
        folder = KEEPER.folder(name)
        shutil.rmtree(folder, ignore_errors=True)
        where, what = str(folder), ("--recipe", recipe, "--seed", str(seed))
        seconds, peak = measured([sys.executable, "-m", "app", "--workspace", where, "demo", *what])
        report = json.loads((folder / "demo" / "report.json").read_text())
        found = KEEPER.keep(name, {"seconds": seconds, "peak_gb": peak, "report": report})
    one = Run(seed, found["report"], found["seconds"], found["peak_gb"])
    leave("loop", name, figures_of([one]), [seed], KEEPER.key)
    return one


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak GB of a command with its children. Raises `CalledProcessError` when it fails."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return time.monotonic() - started, peak / 2**30


def memory(pid: int) -> int:
    """Resident bytes of a process and its children; shared pages are counted once if the system reports
    them."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            held = each.memory_full_info()
            total += getattr(held, "pss", 0) or held.rss
    except psutil.Error:
        return total
    return total


def over_seeds(id: str, runs: Sequence[Run]) -> Figure | None:
    """Mean over the seeds; the interval joins those of the runs, which are independent of one another."""
    found = [one for one in (run.figure(id) for run in runs) if one is not None]
    if len(found) < len(runs):
        return None
    values = [float(one["value"]) for one in found]
    mean = sum(values) / len(values)
    below = sum((one["value"] - one["interval"][0]) ** 2 for one in found) ** 0.5 / len(found)
    above = sum((one["interval"][1] - one["value"]) ** 2 for one in found) ** 0.5 / len(found)
    note = f"goal {found[0]['goal']}; by seed " + ", ".join(f"{value:.3f}" for value in values)
    return figure(
        id, mean, (mean - below, mean + above), found[0]["unit"], sum(one["n"] for one in found), note
    )


def figures_of(runs: Sequence[Run]) -> list[Figure]:
    """All figures over these seeds."""
    exact = [one for one in (each.figure("hard_categories_exact") for each in runs) if one is not None]
    figures = [found for id in (*RATIOS, *SIGHT) if (found := over_seeds(id, runs)) is not None]
    return [
        *figures,
        figure(
            "hard_categories_exact",
            all(one["value"] for one in exact),
            n=len(exact),
            note="by seed: " + "; ".join(one["note"] for one in exact),
        ),
        figure(
            "wall_s",
            max(each.seconds for each in runs),
            unit="s",
            n=len(runs),
            note="the slowest; goal ≤ 600",
        ),
        figure(
            "peak_gb",
            max(each.peak_gb for each in runs),
            unit="GB",
            n=len(runs),
            note="the highest; goal ≤ 4",
        ),
    ]


def main() -> None:
    recipe, seeds = ("cpu-smoke", SEEDS[:1]) if quick() else ("demo", SEEDS)
    runs = [run(seed, recipe) for seed in seeds]
    figures = figures_of(runs)
    write("loop", figures, list(seeds))
    leave("loop", "all", figures, list(seeds))


if __name__ == "__main__":
    main()
