"""`python -m tests.pipelines.one_worker WORKSPACE STAGES TOOLS [VERSION]`: a worker for tests to kill.

With `CLINIC_TEST_SKEW` its clock is wrong by so many seconds.
"""

import os
import sys
import time
from pathlib import Path

import tests.faulty_store
from pipelines.worker.worker import WorkerSettings, run_worker

if skew := float(os.environ.get("CLINIC_TEST_SKEW", "0")):
    true_time = time.time
    time.time = lambda: true_time() + skew


def main() -> None:
    settings = WorkerSettings(
        workspace=Path(sys.argv[1]),
        device="cpu",
        stages=sys.argv[2],
        sweep_seconds=0.2,
        models=sys.argv[3],
        grace_seconds=float(os.environ.get("CLINIC_TEST_GRACE", "0")),
        inference="CLINIC_TEST_INFERENCE" in os.environ,
        **({"application_version": sys.argv[4]} if len(sys.argv) > 4 else {}),
    )
    run_worker(settings)


__all__ = ["tests"]

if __name__ == "__main__":
    main()
