"""Shards that say which process ran them and which model it had open, for Ray's actors."""

import os
import signal
import time
from typing import Any

from dataengine.errors import Conflict, ModelRefused
from pipelines.runtime.context import Context, Result
from pipelines.runtime.models import Models
from tests.pipelines.toys import leave_trace


class CountedModels(Models):
    """Models whose scorer is the number of scorers that were opened so far."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.count = 0

    def open_scorer(self, named: str) -> Any:
        if named == "absent":
            raise ModelRefused(f"{named} is not on this machine")
        self.count += 1
        return self.count


def open_model(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    opened = context.models.open_scorer(shard["name"])
    context.report(1, 2, "opened", loss=0.5)
    time.sleep(shard.get("seconds", 0.0))
    return {"pid": os.getpid(), "opened": opened, "device": context.models.device}


def open_or_not(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    try:
        return open_model(context, round_id, shard)
    except ModelRefused:
        return {"failed": True}


def refuse(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    raise Conflict("the cursor has moved")


def divide(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    return {"quotient": 1 // 0}


def die_once(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    """Shard 3 kills its process the first time."""
    leave_trace(context, round_id, f"{os.getpid()} {shard['number']}")
    marker = context.workspace.path / "died"
    if shard["number"] == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"number": shard["number"]}


def nap(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    leave_trace(context, round_id, str(os.getpid()))
    time.sleep(0.2 if shard["number"] < 2 else 120)
    return {"number": shard["number"]}
