"""What a stage is given, and the three things it can answer with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dataengine.errors import Paused
from dataengine.records import Report, no_report, not_pausing
from pipelines.runtime.devices import default_device
from pipelines.runtime.models import Models, real_models
from storage.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """Where a stage works, with what, whom it tells about progress, who may ask it to wait."""

    workspace: Workspace
    models: Models
    report: Report = no_report
    pausing: Callable[[], bool] = not_pausing
    """Whether somebody asked the work to pause; cheap to ask."""

    def may_pause(self) -> None:
        """A place where nothing is in hand. Raises `Paused` when somebody asked for it."""
        if self.pausing():
            raise Paused("paused as asked; all that was done is kept")


def real_context(workspace: Workspace, device: str | None = None, report: Report = no_report) -> Context:
    """A context with the real models on a device: the first GPU, or else the CPU, unless one is named.
    Nothing is loaded before it is used."""
    return Context(workspace, real_models(device or default_device()), report)


@dataclass(frozen=True)
class Waiting:
    """A stage's answer when people have to act first; the round sleeps in its row until they have."""

    reason: str
    remaining: int = 0


Result = dict[str, Any]
"""A stage's small JSON answer: ids, hashes, counts, never pixels. It is stored in the round's row."""
