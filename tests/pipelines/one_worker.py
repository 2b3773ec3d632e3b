"""`python -m tests.pipelines.one_worker WORKSPACE STAGES TOOLS [VERSION]`: a worker for tests to kill."""

import os
import sys
from pathlib import Path

from pipelines.worker.worker import WorkerSettings, run_worker


def main() -> None:
    settings = WorkerSettings(
        workspace=Path(sys.argv[1]),
        device="cpu",
        stages=sys.argv[2],
        sweep_seconds=0.2,
        models=sys.argv[3],
        inference="CLINIC_TEST_INFERENCE" in os.environ,
        **({"application_version": sys.argv[4]} if len(sys.argv) > 4 else {}),
    )
    run_worker(settings)


if __name__ == "__main__":
    main()
