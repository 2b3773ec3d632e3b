"""`make bench-generator-needs`: predicted memory of every class that has a row, from its published sizes.

What `clinic generators --estimate CLASS --config FOLDER` says, for the table of docs/generators.md, whose
lines are printed. Minutes a class; each is kept in `build/bench/generator-needs/`, so that a bench that was
stopped goes on. `ONLY=CLASS` predicts one.
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from dataengine.diagnosis.config import DetectorConfig
from dataengine.treatment.tuning.needs import Need, predict_needs
from tests.bench.harness import RESULTS, figure, write
from tests.bench.published import PUBLISHED, write_configs

GIGABYTE = 1e9
KEPT = RESULTS / "generator-needs"


def needs(kind: str) -> list[Need]:
    """Those of the class, predicted once."""
    file = KEPT / f"{kind}.json"
    if file.is_file():
        return [Need(**row) for row in json.loads(file.read_text())]
    with tempfile.TemporaryDirectory() as folder:
        found = predict_needs(kind.partition("-")[0], write_configs(kind, Path(folder)), DetectorConfig())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(need) for need in found]))
    return found


def line(kind: str, found: list[Need]) -> str:
    """The class's line in docs/generators.md: draw / diagnose / treat in GB, by size and precision."""
    cells = [
        " / ".join(f"{size / GIGABYTE:.1f}" for size in (each.drawing, each.diagnosing, each.treating))
        for each in found
    ]
    return f"| {PUBLISHED[kind][0]} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    only, figures = os.environ.get("ONLY"), []
    for kind in [only] if only else PUBLISHED:
        found = needs(kind)
        print(line(kind, found), flush=True)
        for each in found:
            name = f"treating_{kind}_{each.side}_{each.precision}"
            figures.append(figure(name, each.treating / GIGABYTE, unit="GB", note=f"{each.text}; predicted"))
    write("generator_needs", figures)


if __name__ == "__main__":
    main()
