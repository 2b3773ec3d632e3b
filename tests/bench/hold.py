"""`make bench-hold`: what people rely on, attacked: load, power cuts, faults, restores, hostile files.

The parts run one after the other, or `PART=NAME` alone, and write one `build/bench/hold.json`: a part that
runs alone keeps the figures that the others measured at the same commit. `QUICK=1` takes a minute a part and
proves only that it works; `FULL=1` adds PostgreSQL. A part that fails leaves no figures.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict

from tests.bench import harness
from tests.bench.harness import Figure, commit_measured, leave, quick, write

PARTS = ("people", "power", "faults", "restore", "files", "erase")
SEEDS = (0,)


def main() -> int:
    """Measure the wanted parts; 1 if one of them failed."""
    alone = os.environ.get("PART", "")
    if alone and alone not in PARTS:
        sys.exit(f"there is no part {alone!r} of this bench; the parts are {', '.join(PARTS)}")
    failed = []
    for part in [alone] if alone else PARTS:
        measure = figures_of(part)
        if measure is None:
            print(f"part {part} is not built yet: its figures are left out", flush=True)
            continue
        print(f"part {part}", flush=True)
        try:
            found = list(measure())
        except Exception:
            traceback.print_exc()
            failed.append(part)
            (harness.RESULTS / "hold" / f"{part}.json").unlink(missing_ok=True)
            continue
        leave("hold", part, found, SEEDS)
        keep(part, found)
    write("hold", merged(), SEEDS)
    if failed:
        print(f"failed, and without figures: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def figures_of(part: str) -> Callable[[], Iterable[Figure]] | None:
    """What measures a part; None as long as its module is not written."""
    name = f"tests.bench.hold_{part}"
    if importlib.util.find_spec(name) is None:
        return None
    measure: Callable[[], Iterable[Figure]] = importlib.import_module(name).figures
    return measure


def keep(part: str, figures: Iterable[Figure]) -> None:
    """Leave a part's figures for the runs of the others."""
    folder = harness.RESULTS / "hold"
    folder.mkdir(parents=True, exist_ok=True)
    state = {"commit": commit_measured(), "quick": quick(), "figures": [asdict(one) for one in figures]}
    (folder / f"{part}.json").write_text(json.dumps(state, indent=1, ensure_ascii=False, allow_nan=False))


def merged() -> list[Figure]:
    """The figures of all parts that were measured at this commit, quick ones among quick ones."""
    found = []
    for part in PARTS:
        path = harness.RESULTS / "hold" / f"{part}.json"
        state = json.loads(path.read_text()) if path.is_file() else {}
        if (state.get("commit"), state.get("quick")) == (commit_measured(), quick()):
            found += [Figure(**one | {"interval": span(one["interval"])}) for one in state["figures"]]
    return found


def span(interval: list[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


if __name__ == "__main__":
    sys.exit(main())
