"""What a stage is given, and the three things it can answer with."""

from dataclasses import dataclass
from typing import Any

from dataengine.records import Report, silent
from pipelines.tools import Tools
from storage.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """Where a stage works, with what, and whom it tells about progress."""

    workspace: Workspace
    tools: Tools
    report: Report = silent


@dataclass(frozen=True)
class Waiting:
    """A stage's answer when people have to act first; the round sleeps in its row until they have."""

    reason: str
    remaining: int = 0


Result = dict[str, Any]
"""A stage's small JSON answer: ids, hashes, counts, never pixels. It is stored in the round's row."""
