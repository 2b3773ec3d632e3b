"""`make bench-crash`: a hundred kills at random moments, of worker, child or web server, in whole rounds.

Half of them hit rounds of fakes, half `cpu-smoke` rounds: their trainings and treatments with checkpoints,
publishing and registering. Every finished round is held against one that nobody disturbed: what is missing is
lost, what is beyond is doubled. A round that needs more than a few resumes, or does not end once the kills
have stopped, is hung. `QUICK=1` kills a few times, and compares rounds of fakes only.
"""

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines.services.rounds import resume_round
from tests.bench.harness import figure, mean, quick, write
from tests.bench.rehearsal import REAL_ROUND, ROUND_OF_FAKES, Kind, Stage, compare, prepared, staged

KILLS = {ROUND_OF_FAKES.name: 3 if quick() else 50, REAL_ROUND.name: 2 if quick() else 50}
MOST_OF_A_ROUND = 25
"""Kills of one round at most, so that it ends."""
SEED = 0
LONGEST_PAUSE = {ROUND_OF_FAKES.name: 4.0, REAL_ROUND.name: 15.0}
"""Seconds of work between two kills at most; a child with real models takes some to begin."""
WHILE_STARTING = 0.1
"""Kills a second that do not wait until the worker has started again."""
WORKER_SHARE, SERVER_SHARE = 0.55, 0.15
"""Shares of kills that hit the worker, its child dying with it, and the server; the others hit the child or
its guard."""
MOST_RESUMES = 8
"""A round that people have to resume more often is hung."""
UNDISTURBED_SECONDS = 420.0
"""A round that does not end within this time after its last kill is hung."""
TICK = 0.02


@dataclass
class Ended:
    """How a round ended under kills."""

    kills: int = 0
    resumed: int = 0
    hung: bool = False
    lost: int = 0
    doubled: int = 0
    seconds: float = 0.0


def main() -> None:
    """Kill until enough is killed, then write the figures. Fails if anything was lost, doubled or hung."""
    rng = random.Random(SEED)
    found: dict[str, list[Ended]] = {}
    with tempfile.TemporaryDirectory(prefix="crash") as folder:
        for kind in (ROUND_OF_FAKES, REAL_ROUND):
            found[kind.name] = list(rounds_under_kills(kind, Path(folder) / kind.name, rng))
    every = [ended for rounds in found.values() for ended in rounds]
    kills = sum(ended.kills for ended in every)
    by_kind = ", ".join(
        f"{sum(ended.kills for ended in rounds)} in {len(rounds)} rounds of {name}"
        for name, rounds in found.items()
    )
    lost, doubled = sum(ended.lost for ended in every), sum(ended.doubled for ended in every)
    hung, resumed = sum(ended.hung for ended in every), sum(ended.resumed for ended in every)
    what = "rows, and numbers that stages of fakes recorded"
    bound = f"more than {MOST_RESUMES} resumes, or {UNDISTURBED_SECONDS:.0f} s without a kill and not over"
    again = "stages given up after their child died in the same way again and again, asked for anew"
    figures = [
        figure("kills", kills, n=len(every), note=f"kill -9 of worker, child or server: {by_kind}"),
        figure("lost", lost, n=kills, note=f"{what}, that an undisturbed round has"),
        figure("doubled", doubled, n=kills, note=f"{what}, beyond those of an undisturbed round"),
        figure("hung", hung, unit="rounds", n=len(every), note=bound),
        figure("resumed", resumed, n=len(every), note=again),
    ]
    for name, rounds in found.items():
        seconds = [ended.seconds for ended in rounds]
        id = f"round_seconds_{name.replace('-', '_')}"
        figures.append(mean(id, seconds, "s", f"a round of {name} under kills"))
    write("crash", figures, [SEED])
    if lost or doubled or hung:
        raise SystemExit("something was lost, doubled or hung")


def rounds_under_kills(kind: Kind, folder: Path, rng: random.Random) -> "list[Ended]":
    """Rounds of one kind until enough was killed."""
    template = prepared(kind, folder / "template")
    expected = None if quick() and not kind.exact else undisturbed(kind, folder / "undisturbed", template)
    found: list[Ended] = []
    while (left := KILLS[kind.name] - sum(ended.kills for ended in found)) > 0:
        with staged(kind, folder / f"round{len(found)}", template) as stage:
            ended = disturb(stage, rng, min(left, MOST_OF_A_ROUND), expected)
        found.append(ended)
        print(f"{kind.name}: {ended}", flush=True)
    return found


def undisturbed(kind: Kind, folder: Path, template: Path) -> dict[str, Any]:
    """What a round leaves that nobody disturbs."""
    with staged(kind, folder, template) as stage:
        calm = disturb(stage, random.Random(SEED), 0)
        if calm.hung:
            raise SystemExit(f"an undisturbed round of {kind.name} did not end")
        print(f"{kind.name}: undisturbed in {calm.seconds:.0f} s", flush=True)
        return kind.left(stage.workspace, stage.round_id)


def disturb(stage: Stage, rng: random.Random, most: int, expected: dict[str, Any] | None = None) -> Ended:
    """Bring a round to its end under at most so many kills, and compare what it left."""
    ended = Ended()
    began = last = time.monotonic()
    following: float | None = None
    while not stage.team.round_is(stage.round_id, "done"):
        worker = stage.worker()
        stage.keep_served()
        if stage.team.round_is(stage.round_id, "failed"):
            if ended.resumed == MOST_RESUMES:
                ended.hung = True
                break
            resume_round(stage.workspace, stage.round_id, "bench")
            ended.resumed += 1
        if time.monotonic() - last > UNDISTURBED_SECONDS:
            ended.hung = True
            break
        if ended.kills < most:
            if following is None and (rng.random() < WHILE_STARTING * TICK or stage.works()):
                following = time.monotonic() + rng.uniform(0, LONGEST_PAUSE[stage.kind.name])
            if following is not None and time.monotonic() >= following:
                ended.kills += kill(stage, worker.pid, rng)
                last, following = time.monotonic(), None
        time.sleep(TICK)
    ended.seconds = time.monotonic() - began
    if ended.hung:
        print(stage.team.log()[-4000:], flush=True)
    elif expected is not None:
        ended.lost, ended.doubled = compare(expected, stage.kind.left(stage.workspace, stage.round_id))
    return ended


def kill(stage: Stage, worker: int, rng: random.Random) -> int:
    """kill -9 the worker, one process of its child's group, or the server; 1, or 0 if it had just ended."""
    chance = rng.random()
    if chance < SERVER_SHARE and stage.serves() and stage.server is not None:
        victim = stage.server.pid
    else:
        victim = worker
        if chance >= SERVER_SHARE + WORKER_SHARE:
            try:
                family = psutil.Process(worker).children(recursive=True)
            except psutil.NoSuchProcess:
                return 0
            victim = rng.choice(family).pid if family else worker
    try:
        psutil.Process(victim).kill()
    except psutil.NoSuchProcess:
        return 0
    for process in (stage.server, stage.worker() if victim == worker else None):
        if process is not None and process.pid == victim:
            process.wait()
    return 1


if __name__ == "__main__":
    main()
