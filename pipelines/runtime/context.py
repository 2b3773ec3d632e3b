"""The context that stages and jobs run in, and the types that they return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dataengine.devices import default_device
from dataengine.errors import Paused
from dataengine.records import Report, no_report, not_pausing
from pipelines.runtime.models import Models, real_models
from storage.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """The workspace, the models, the progress report, and whether a pause was requested."""

    workspace: Workspace
    models: Models
    report: Report = no_report
    pausing: Callable[[], bool] = not_pausing
    """Whether the job was asked to pause; cheap to call."""

    def may_pause(self) -> None:
        """Mark a safe point to pause. Raises `Paused` if that was requested."""
        if self.pausing():
            raise Paused("paused on request; all finished work is kept")


def real_context(workspace: Workspace, device: str | None = None, report: Report = no_report) -> Context:
    """A context with the real models on `device` (default: the first GPU, else the CPU). Models are loaded on
    first use."""
    return Context(workspace, real_models(device or default_device()), report)


@dataclass(frozen=True)
class Waiting:
    """A stage's outcome while it waits for people; the round stays in state "waiting" until they are done."""

    reason: str
    remaining: int = 0


Result = dict[str, Any]
"""A stage's small JSON result: ids, hashes, counts, never pixels. It is stored in the round's row."""
