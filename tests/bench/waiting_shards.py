"""Stages of shards that wait on a simulated device of fixed speed, for `scale_workers` and `scale_ray`.

A shard takes `CLINIC_BENCH_SHARD_S` seconds of waiting, writes one row under its own key, and leaves a line
in `shards.log` when it begins and when it ends.
"""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from dataengine.records import Prompt
from pipelines.runtime.context import Context, Result
from pipelines.stages.stage import Sharded, Stage

SHARDS_VARIABLE, SECONDS_VARIABLE = "CLINIC_BENCH_SHARDS", "CLINIC_BENCH_SHARD_S"
TOGETHER_VARIABLE = "CLINIC_BENCH_TOGETHER"
LOG = "shards.log"


def shards(context: Context, round_id: str) -> list[dict[str, Any]]:
    return [{"number": number} for number in range(int(os.environ[SHARDS_VARIABLE]))]


def run_shard(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    number = shard["number"]
    note(context, number, "begins")
    time.sleep(float(os.environ[SECONDS_VARIABLE]))
    with context.workspace.catalog() as catalog:
        row = Prompt(round_id=round_id, purpose="survey", index=number, text=f"shard {number}")
        catalog.prompts.add_many([row])
        catalog.commit()
    note(context, number, "ends")
    return {"number": number}


def run_shard_together(context: Context, round_id: str, shard: dict[str, Any]) -> Result:
    """As `run_shard`, but a process's first shard waits until `CLINIC_BENCH_TOGETHER` processes have one."""
    ready = context.workspace.path / "ready"
    ready.mkdir(exist_ok=True)
    (ready / str(os.getpid())).touch()
    deadline = time.monotonic() + 120.0
    while len(list(ready.iterdir())) < int(os.environ[TOGETHER_VARIABLE]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return run_shard(context, round_id, shard)


def finish(context: Context, round_id: str, answers: Any) -> Result:
    return {"numbers": [answer["number"] for answer in answers]}


def note(context: Context, number: int, what: str) -> None:
    """One write of one line, which processes do not tear apart."""
    line = f"{time.time()} {os.getpid()} {number} {what}\n"
    with (context.workspace.path / LOG).open("ab", buffering=0) as file:
        file.write(line.encode())


class Trace(NamedTuple):
    """What `shards.log` says."""

    begun: Counter[int]
    """How often each shard began."""
    seconds: float
    """From the first beginning to the last end."""
    processes: int


def trace(folder: Path) -> Trace:
    """Read `shards.log`."""
    lines = [line.split() for line in (folder / LOG).read_text().splitlines()]
    times = [float(line[0]) for line in lines]
    begun = Counter(int(number) for _, _, number, what in lines if what == "begins")
    return Trace(begun, max(times) - min(times), len({pid for _, pid, _, _ in lines}))


STAGES = (
    Stage(
        name="shards",
        title="shards",
        part="survey",
        section="generate",
        takes="nothing",
        found=str,
        work=Sharded(shards=shards, run_shard=run_shard, finish=finish),
    ),
)
