"""The figures of a run in an experiment tracker, through accelerate's trackers."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import Report

PROJECT = "artifact-clinic"
MODULES = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboard"}
"""The package of each tracker."""


@dataclass
class TrackedReport:
    """A `Report` that also logs every figure, at the step that it was reported for."""

    report: Report
    tracker: Any
    section: str = ""
    """Prefix of the figures' names, such as the stage of a round."""

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
        self.report(done, total, message, **figures)
        if figures:
            prefix = f"{self.section}/" if self.section else ""
            self.tracker.log(
                {f"{prefix}{name}": float(each) for name, each in figures.items()}, step=int(done)
            )

    def close(self) -> None:
        """Close the report that is shown."""
        if close := getattr(self.report, "close", None):
            close()


@contextmanager
def track(
    report: Report, name: str, run: str, settings: Mapping[str, Any], folder: Path
) -> Iterator[TrackedReport]:
    """A report that logs to the tracker of that name while the block runs; the same `run` is continued.

    TensorBoard writes below `folder`, the others where their own settings say. Raises `ConfigRefused`
    for a tracker that is unknown or not installed.
    """
    # Trackers print; standard output is the command's result.
    with redirect_stdout(sys.stderr):
        tracker = _open(name, run, folder)
        tracker.start()
        tracker.store_init_configuration(flat(settings))
    try:
        yield TrackedReport(report, tracker)
    finally:
        with redirect_stdout(sys.stderr):
            _finish(name, tracker)


def _open(name: str, run: str, folder: Path) -> Any:
    if name not in MODULES:
        raise ConfigRefused(f"there is no tracker {name!r}; there are {', '.join(MODULES)}")
    if importlib.util.find_spec(MODULES[name]) is None:
        raise ConfigRefused(f"the tracker {name} is not installed here: pip install {MODULES[name]}")
    # Read when these packages are imported.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from accelerate import tracking
    from accelerate.state import PartialState

    # Its trackers refuse to log without a state; trainings begin with one of their own.
    PartialState(cpu=True)
    if name == "tensorboard":
        return tracking.TensorBoardTracker(run, folder)
    if name == "mlflow":
        return tracking.MLflowTracker(PROJECT, run_name=run)
    if name == "wandb":
        return tracking.WandBTracker(PROJECT, name=run, id=run, resume="allow")
    quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    return tracking.TrackioTracker(PROJECT, name=run, resume="allow", **quiet)


def _finish(name: str, tracker: Any) -> None:
    if name == "trackio":
        # Its own function also forgets the run, which would be finished once more, in print, at exit.
        import trackio

        trackio.finish()
    else:
        tracker.finish()


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings by dotted names, as trackers take them; lists and nulls become text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str | int | float) else str(value)
    return found
