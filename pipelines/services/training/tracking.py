"""Log what a command trains, treats or runs to an experiment tracker."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.records import Report

if TYPE_CHECKING:
    from pipelines.runtime.trackers import TrackedReport


@contextmanager
def tracked_report(
    report: Report, name: str, run: str, settings: Mapping[str, Any], folder: Path
) -> "Iterator[TrackedReport]":
    """See `pipelines.runtime.trackers.track`."""
    from pipelines.runtime.trackers import track

    with track(report, name, run, settings, folder) as tracked:
        yield tracked
