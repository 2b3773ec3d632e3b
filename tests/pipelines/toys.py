"""Toy stages that write into the catalog, quick and torch-free, to drive rounds and workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dataengine.records import Prompt
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.models import Models
from pipelines.stages.stage import Sharded, Stage, Work
from tests import faulty_store
from tests.fakes import replace_methods

__all__ = ["faulty_store"]
"""Whoever has these stages knows the blob stores that fail on demand."""

SHARDS = 4
PER_SHARD = 5


def no_models(device: str) -> Models:
    """Models for stages that open none."""

    def absent(*args: Any) -> Any:
        raise AssertionError("toy stages open nothing")

    models = Models(device)
    methods = [name for name in vars(Models) if not name.startswith("_")]
    replace_methods(models, **dict.fromkeys(methods, absent))
    return models


def write(context: Context, round_id: str, purpose: str, numbers: range) -> int:
    """Prompts under unique keys: written twice they are there once."""
    prompts = [Prompt(round_id=round_id, purpose=purpose, index=i, text=f"{purpose} {i}") for i in numbers]
    for half in (prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]):
        with context.workspace.catalog() as catalog:
            catalog.prompts.add_many(half)
            catalog.commit()
        fail_point(f"{purpose}:half")
    return len(prompts)


def draw_shards(context: Context, round_id: str) -> list[dict[str, Any]]:
    return [{"start": i * PER_SHARD, "stop": (i + 1) * PER_SHARD} for i in range(SHARDS)]


def draw_shard(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    leave_trace(context, round_id, f"draw {shard['start']}")
    context.report(1, 2, "drawing", loss=0.5)
    return {"written": write(context, round_id, "survey", range(shard["start"], shard["stop"]))}


def draw_finish(context: Context, round_id: str, answers: Any) -> Result:
    return {"images": sum(answer["written"] for answer in answers)}


def count(context: Context, round_id: str) -> Result:
    leave_trace(context, round_id, "count")
    fail_point("count:start")
    with context.workspace.catalog() as catalog:
        return {"prompts": len(catalog.prompts.of_round(round_id, "survey"))}


def ask(context: Context, round_id: str) -> Result | Waiting:
    fail_point("ask:looked")
    flag = context.workspace.path / "people-are-done"
    return {"asked": 1} if flag.exists() else Waiting("somebody has to create a file", 1)


def train(context: Context, round_id: str) -> Result:
    leave_trace(context, round_id, "train")
    return {"steps": write(context, round_id, "hard", range(10))}


def sleep(context: Context, round_id: str) -> Result:
    """Takes a minute in naps, with a grandchild that would outlive careless parents."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    pids = context.workspace.path / "pids"
    pids.with_suffix(".part").write_text(f"{os.getpid()} {grandchild.pid}")
    pids.with_suffix(".part").rename(pids)
    for second in range(600):
        context.report(second, 600, "sleeping")
        time.sleep(0.1)
    return {"slept": 60}


def checkpointed(context: Context, round_id: str) -> Result:
    """Counts to 100 in naps, and goes on where it paused."""
    state = context.workspace.path / "counted"
    done = int(state.read_text()) if state.exists() else 0
    leave_trace(context, round_id, f"from {done}")
    for number in range(done, 100):
        context.report(number, 100, "counting")
        if context.pausing():
            state.write_text(str(number))
            context.may_pause()
        time.sleep(0.1)
    return {"counted": 100}


def stubborn(context: Context, round_id: str) -> Result:
    """Takes longer than a lease in naps, and never looks whether to pause."""
    leave_trace(context, round_id, "stubborn")
    for number in range(120):
        context.report(number, 120, "napping")
        time.sleep(0.1)
    return {"napped": 120}


def store(context: Context, round_id: str) -> Result:
    """Writes and reads blobs for two seconds."""
    for number in range(20):
        context.report(number, 20, "storing")
        name = context.workspace.blobs.put(f"{round_id} {number}".encode())
        assert context.workspace.blobs.get(name)
        time.sleep(0.1)
    return {"stored": 20}


def crash(context: Context, round_id: str) -> Result:
    """Kills its process, unless somebody has mended the cause."""
    leave_trace(context, round_id, "crash")
    if (context.workspace.path / "mended").exists():
        return {}
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def leave_trace(context: Context, round_id: str, what: str) -> None:
    """One line for each time the work was begun, and by whom."""
    with (context.workspace.path / "trace").open("a") as file:
        file.write(f"{round_id} {os.environ.get('CLINIC_WORKER_PID')} {what}\n")


def traces(path: Path) -> list[list[str]]:
    return [line.split(maxsplit=2) for line in (path / "trace").read_text().splitlines()]


def toy(name: str, work: Work, people: bool = False) -> Stage:
    """A stage of the survey, with words that say nothing."""
    return Stage(
        name=name,
        title=name,
        part="survey",
        section="generate",
        takes="nothing",
        found=str,
        work=work,
        people=people,
    )


STAGES = (
    toy("draw", Sharded(shards=draw_shards, run_shard=draw_shard, finish=draw_finish)),
    toy("count", count),
    toy("ask", ask, people=True),
    toy("train", train),
)
SLEEPY = (toy("sleep", sleep),)
CHECKPOINTED = (toy("count", checkpointed),)
STUBBORN = (toy("nap", stubborn),)
STORING = (toy("store", store),)
CRASHING = (toy("crash", crash),)
