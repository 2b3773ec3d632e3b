"""Part `workers`: DBOS workers on PostgreSQL on shards that wait on a simulated device of fixed speed.

`workers_speedup` is the rate of eight workers over one worker's, each with as many shards for every worker.
Then workers are killed at random moments, and new ones started, while a round has a thousand shards: none may
be lost or counted twice, and those that begin again are the share that was redone.
"""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.services.rounds import start_round
from storage.workspace import DATABASE_VARIABLE
from tests.bench import harness, waiting_shards
from tests.bench.harness import Figure, figure
from tests.bench.postgres import on_postgres
from tests.bench.waiting_shards import SECONDS_VARIABLE, SHARDS_VARIABLE, Trace, trace
from tests.pipelines.rig import Crew, crew, until

WORKERS = 8
SPEC = ("tests.bench.waiting_shards:STAGES", "tests.pipelines.toys:no_models")
PATIENCE_S = 420.0


def figures(quick: bool) -> list[Figure]:
    """All of the part's figures."""
    each, seconds = (4, 0.5) if quick else (30, 1.5)
    one = rate(1, each, seconds)
    several = rate(WORKERS, each, seconds)
    killed = killed_round(shards=60 if quick else 1000, kills=3 if quick else 24, seconds=0.4)
    note = f"{one:.2f} shards/s with one worker, {several:.2f} with {WORKERS}; {each} of {seconds} s for each"
    return [
        figure("workers_speedup", several / one, unit="ratio", n=WORKERS, note=f"{note}; goal ≥ 7.2"),
        *killed,
    ]


def rate(workers: int, each: int, seconds: float) -> float:
    """Shards a second of so many workers, from the first beginning to the last end."""
    with working(workers, workers * each, seconds) as (team, round_id):
        until(lambda: team.round_is(round_id, "done", "failed"), PATIENCE_S, "the round ends")
        found = trace(team.workspace.path)
        check(team, round_id, found)
    assert found.processes == workers, f"{found.processes} of {workers} took part"
    return len(found.begun) / found.seconds


def killed_round(shards: int, kills: int, seconds: float) -> list[Figure]:
    """A round whose workers are killed and replaced until `kills` were."""
    chance, done = random.Random(0), 0
    began = time.monotonic()
    with working(WORKERS, shards, seconds) as (team, round_id):
        pause = 0.7 * shards * seconds / WORKERS / kills
        while not team.round_is(round_id, "done", "failed"):
            assert time.monotonic() - began < PATIENCE_S, "the round did not end"
            if done < kills:
                time.sleep(chance.uniform(0.5, 1.5) * pause)
                victim = chance.choice([one for one in team.processes if one.poll() is None])
                victim.kill()
                victim.wait()
                done += 1
                team.start(SPEC)
            else:
                time.sleep(0.2)
        found = trace(team.workspace.path)
        lost, doubled = check(team, round_id, found)
    again = sum(count - 1 for count in found.begun.values())
    note = f"{shards} shards of {seconds} s, {WORKERS} workers, killed ones replaced, {found.seconds:.0f} s"
    return [
        figure("node_kills", done, n=shards, note=f"{note}; goal ≥ 20"),
        figure("node_kill_lost", lost, n=shards, note="shards without a row or a result; goal 0"),
        figure("node_kill_doubled", doubled, n=shards, note="shards with two rows or two results; goal 0"),
        figure("node_kill_redone", again / shards, unit="share", n=shards, note="begun again; goal ≤ 0.03"),
    ]


@contextmanager
def working(workers: int, shards: int, seconds: float) -> Iterator[tuple[Crew, str]]:
    """So many workers, all ready before a round of so many shards starts."""
    environment = {SHARDS_VARIABLE: str(shards), SECONDS_VARIABLE: str(seconds)}
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="scale-", dir=harness.RESULTS) as folder,
        on_postgres(),
        crew(Path(folder) / "w", os.environ[DATABASE_VARIABLE], **environment) as team,
    ):
        for _ in range(workers):
            team.start(SPEC)
        until(lambda: team.log().count(" takes jobs ") == workers, PATIENCE_S, "all workers take jobs")
        yield team, start_round(team.workspace, {}, stages=waiting_shards.STAGES).id


def check(team: Crew, round_id: str, found: Trace) -> tuple[int, int]:
    """How many shards were lost, and how many counted twice."""
    with team.workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(round_id)
        rows = Counter(prompt.index for prompt in catalog.prompts.of_round(round_id, "survey"))
    assert row.state == "done", row.message
    results = Counter(row.results["shards"]["numbers"])
    everything = set(found.begun)
    lost = sum(not rows[number] or not results[number] for number in everything)
    doubled = sum(rows[number] > 1 or results[number] > 1 for number in everything)
    return lost, doubled
