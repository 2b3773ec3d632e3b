"""`make bench-crash`: a hundred kills at random moments, of worker or child, in rounds of fakes.

Every finished round is held against one that nobody disturbed: what is missing is lost, what is beyond is
doubled. `QUICK=1` kills five times.
"""

import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from pipelines.services import queue
from pipelines.services.rounds import resume_round
from storage.opening import create_workspace
from tests import fakes
from tests.bench.harness import figure, mean, quick, write
from tests.pipelines.rig import FAKES, Crew, crew
from tests.pipelines.test_round import begin, counts, run_here

KILLS = 5 if quick() else 100
SEED = 0
LONGEST_PAUSE = 4.0
"""Seconds of work between two kills at most."""
WHILE_STARTING = 0.1
"""Kills a second that do not wait until the worker has started again."""
WORKER_SHARE = 0.7
"""Share of kills that hit the worker, its child dying with it; the others hit the child or its guard."""
GIVE_UP_SECONDS = 2400.0
TICK = 0.02


def main() -> None:
    """Kill until enough is killed, then write the figures. Fails if anything was lost or doubled."""
    rng = random.Random(SEED)
    kills = resumed = lost = doubled = 0
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="crash") as folder:
        expected = undisturbed(Path(folder) / "undisturbed")
        while kills < KILLS:
            with crew(Path(folder) / f"round{len(seconds)}", "sqlite") as team:
                began = time.monotonic()
                round_id = begin(team.workspace)
                killed, again = disturb(team, round_id, rng, KILLS - kills)
                missing, surplus = compare(expected, counts(team.workspace, round_id))
            seconds.append(time.monotonic() - began)
            kills, resumed = kills + killed, resumed + again
            lost, doubled = lost + missing, doubled + surplus
            said = f"{kills} kills so far, {missing} lost, {surplus} doubled"
            print(f"round {len(seconds)}: {seconds[-1]:.0f} s, {said}", flush=True)
    rounds = len(seconds)
    what = "rows, and numbers that stages recorded"
    write(
        "crash",
        [
            figure("kills", kills, n=rounds, note="kill -9 at random moments, of the worker or of its child"),
            figure("lost", lost, n=kills, note=f"{what}, that an undisturbed round has"),
            figure("doubled", doubled, n=kills, note=f"{what}, beyond those of an undisturbed round"),
            figure(
                "resumed", resumed, n=rounds, note="stages given up after three dead children, asked for anew"
            ),
            mean("round_seconds", seconds, "s", "a round of fakes under kills"),
        ],
        [SEED],
    )
    if lost or doubled:
        raise SystemExit("something was lost or doubled")


def undisturbed(path: Path) -> dict[str, Any]:
    """What a round leaves that nobody disturbs."""
    workspace = create_workspace(path)
    round_id = begin(workspace)
    run_here(workspace, round_id)
    return counts(workspace, round_id)


def disturb(team: Crew, round_id: str, rng: random.Random, most: int) -> tuple[int, int]:
    """Bring a round to its end under kills; how many there were, and how often it was resumed by hand."""
    killed = resumed = 0
    began = time.monotonic()
    following: float | None = None
    while not team.round_is(round_id, "done"):
        if time.monotonic() - began > GIVE_UP_SECONDS:
            raise SystemExit(f"the round did not end\n{team.log()}")
        worker = team.keep_one(FAKES)
        if team.round_is(round_id, "waiting"):
            fakes.answer_queue(team.workspace, round_id)
        if team.round_is(round_id, "failed"):
            resume_round(team.workspace, round_id, "bench")
            resumed += 1
        if following is None and (rng.random() < WHILE_STARTING * TICK or works(team, worker)):
            following = time.monotonic() + rng.uniform(0, LONGEST_PAUSE)
        if killed < most and following is not None and time.monotonic() >= following:
            killed += kill(worker, rng)
            following = None
        time.sleep(TICK)
    return killed, resumed


def works(team: Crew, worker: "subprocess.Popen[bytes]") -> bool:
    """Whether this very process has given a sign of life."""
    return worker.pid in [beat.pid for beat in queue.workers_alive(team.workspace)]


def kill(worker: "subprocess.Popen[bytes]", rng: random.Random) -> int:
    """kill -9 the worker, or one process of its child's group; 1, or 0 if the chosen one had just ended."""
    try:
        family = psutil.Process(worker.pid).children(recursive=True)
        victim = worker.pid if rng.random() < WORKER_SHARE or not family else rng.choice(family).pid
        psutil.Process(victim).kill()
    except psutil.NoSuchProcess:
        return 0
    if victim == worker.pid:
        worker.wait()
    return 1


def compare(expected: dict[str, Any], found: dict[str, Any]) -> tuple[int, int]:
    """How much is missing and how much is beyond, number by number."""
    wanted, there = dict(leaves(expected)), dict(leaves(found))
    lost = sum(name not in there or there[name] < value for name, value in wanted.items())
    doubled = sum(name not in wanted or wanted[name] < value for name, value in there.items())
    return lost, doubled


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested counts, with its place."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{name}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from leaves(each, f"{name}.{index}")
    elif value is not None:
        yield name, float(value)


if __name__ == "__main__":
    main()
