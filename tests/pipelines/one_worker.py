"""`python -m tests.pipelines.one_worker WORKSPACE STAGES [VERSION]`: a worker over toy stages, for tests to kill."""

import sys
from pathlib import Path

from pipelines.worker import WorkerSettings, run_worker


def main() -> None:
    settings = WorkerSettings(
        workspace=Path(sys.argv[1]),
        device="cpu",
        tools="tests.pipelines.toys:no_tools",
        stages=sys.argv[2],
        inference=False,
        **({"application_version": sys.argv[3]} if len(sys.argv) > 3 else {}),
    )
    run_worker(settings)


if __name__ == "__main__":
    main()
