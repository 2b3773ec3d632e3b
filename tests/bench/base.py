"""`BASE=COMMIT make bench-annotate|bench-desks|bench-storage`: today's times over those of another commit.

That commit is checked out in a git worktree of its own below `build/bench/base`, and both are measured in
turns on this machine with the same virtual environment: portion by portion (see `portion`), each commit by
its own bench in a process of its own. Which of the two goes first alternates, so that drift cancels.
"""

import compileall
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import harness
from tests.bench.harness import Figure, bootstrap, figure, quick

PAIRS = 15
FEWEST = 9
"""Pairs that are measured in any case; later ones only within the time."""
SECONDS = 25 * 60
PORTION = Path(__file__).with_name("portion.py")


def over_base(name: str) -> list[Figure]:
    """`ID_over_base` for every timing figure of a bench; nothing without `BASE`.

    Raises `RuntimeError` when git does not know the commit, or no pair could be measured.
    """
    base = os.environ.get("BASE", "")
    if not base:
        return []
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    began = time.monotonic()
    with checkout(base) as folder:
        for number in range(1 if quick() else PAIRS):
            if number >= FEWEST and time.monotonic() - began > SECONDS:
                break
            order = (harness.ROOT, folder) if number % 2 == 0 else (folder, harness.ROOT)
            try:
                found = {side: portion(side, name) for side in order}
            except RuntimeError as error:
                print(f"pair {number + 1} is left out: {error}", flush=True)
                continue
            pairs.append((found[harness.ROOT], found[folder]))
            print(f"{len(pairs)} pairs, {time.monotonic() - began:.0f} s", flush=True)
        commit = folder.name
    if not pairs:
        raise RuntimeError(f"no pair of {name} with {commit} could be measured")
    return ratios(pairs, commit)


def ratios(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], commit: str) -> list[Figure]:
    """Median of today's figure over the base's for each timing that both have; with its interval."""
    figures = []
    for one in pairs[0][0]["figures"]:
        if not is_timing(one["unit"]):
            continue
        values = [[value_of(side, one["id"]) for side in pair] for pair in pairs]
        both = [now / before for now, before in values if now and before]
        if not both:
            continue
        better = "above" if one["unit"].endswith("/s") else "below"
        note = f"over {commit[:12]}, {len(both)} pairs of quick portions in turns; {better} 1 is faster"
        middle = float(np.median(both))
        # Resampling fewer than three pairs would claim a certainty that is not there.
        spread = bootstrap(both, lambda drawn: float(np.median(drawn))) if len(both) > 2 else None
        figures.append(figure(f"{one['id']}_over_base", middle, spread, "ratio", len(both), note))
    return figures


def is_timing(unit: str) -> bool:
    """Whether a figure of this unit is a time or a rate."""
    return unit in ("ms", "s") or unit.endswith("/s")


def value_of(result: Mapping[str, Any], id: str) -> float | None:
    """A figure's number, None where the result has none of that name."""
    return next((float(one["value"]) for one in result["figures"] if one["id"] == id), None)


def portion(checkout: Path, name: str) -> dict[str, Any]:
    """A quick portion's result by the code of a checkout. Raises `RuntimeError` with why it failed."""
    with tempfile.TemporaryDirectory(prefix="portion") as out:
        done = subprocess.run(
            [sys.executable, "-P", str(PORTION), name, out],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "QUICK": "1", "FULL": "", "BASE": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        file = Path(out) / f"{name}.json"
        if done.returncode or not file.is_file():
            raise RuntimeError(f"{name} in {checkout}: {(done.stderr or done.stdout).strip()[-2000:]}")
        return json.loads(file.read_text())


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A git worktree of a commit, named by its full hash and compiled; removed with the block."""
    full = git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    folder = harness.RESULTS / "base" / full
    remove(folder)
    git("worktree", "add", "--detach", "--force", str(folder), full)
    try:
        compileall.compile_dir(folder, quiet=2)
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Forget a worktree, however a run that was killed left it."""
    with contextlib.suppress(RuntimeError):  # it may be none
        git("worktree", "remove", "--force", str(folder))
    shutil.rmtree(folder, ignore_errors=True)


def git(*command: str) -> str:
    """What git prints. Raises `RuntimeError` with what it complains of."""
    done = subprocess.run(["git", *command], cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
