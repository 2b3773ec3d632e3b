"""`make bench-annotate`: the annotation page in Chromium, its API under load, and the curator's filter.

What each figure measures: `annotate_browser`, `annotate_load`, `annotate_actions`, `annotate_filter`. With
`BASE=COMMIT` also today's times over that commit's (see `base`).
"""

import sys
import tempfile
from pathlib import Path

from tests.bench.annotate_actions import action_figures
from tests.bench.annotate_browser import page_figures
from tests.bench.annotate_filter import filter_figures
from tests.bench.annotate_load import load_figures
from tests.bench.base import over_base
from tests.bench.harness import RESULTS, missed, quick, write

AT_MOST = {
    "pointer_p95_ms": 1.0,
    "frame_p50_ms_2048": 33.0,
    "frame_p95_ms_2048": 66.0,
    "serialise_p95_ms": 10.0,
    "next_p50_ms": 60.0,
    "next_p95_ms": 200.0,
    "submit_p95_under_jobs_ms": 200.0,
    "filter_p95_ms": 50.0,
    "actions_ratio": 0.2,
}
AT_LEAST = {"submits_per_s": 60.0}


def main() -> int:
    """Measure and write `build/bench/annotate.json`; 1 if a figure misses its target entirely."""
    short = quick()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS) as name:
        scratch = Path(name)
        figures = [
            *page_figures(scratch, *((6, 20, 6) if short else (40, 200, 60))),
            *load_figures(scratch, *((8, 10) if short else (60, 120))),
            *filter_figures(scratch, *((5_000, 40) if short else (100_000, 400))),
            *action_figures(scratch, 4 if short else 60),
        ]
    figures += over_base("annotate")
    write("annotate", figures, seeds=[0])
    failed = [
        one.id for one in figures if missed(one, at_least=AT_LEAST.get(one.id), at_most=AT_MOST.get(one.id))
    ]
    return int(bool(failed) and not short)


if __name__ == "__main__":
    sys.exit(main())
