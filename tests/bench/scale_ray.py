"""Part `ray`: the engine `ray` on PostgreSQL on shards that wait on a simulated device of fixed speed.

`ray_speedup` is the rate of eight actors over one actor's, from when all have begun until the last shard
ends. Then actors are killed at random moments while a stage has a thousand shards, and the engine replaces
them. Ray is in an environment of its own, where this module runs again as a program.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tests.bench import harness, waiting_shards
from tests.bench.harness import ROOT, Figure, figure
from tests.bench.postgres import on_postgres
from tests.bench.waiting_shards import LOG, SECONDS_VARIABLE, SHARDS_VARIABLE, TOGETHER_VARIABLE

ACTORS = 8
PYTHON = ROOT / "build" / "ray-venv" / "bin" / "python"
LIMIT_S = 580.0
MODELS = "tests.pipelines.toys:no_models"


def figures(quick: bool) -> list[Figure]:
    """All of the part's figures, measured by a Python that has Ray."""
    python = sys.executable if find_spec("ray") else str(PYTHON)
    if not Path(python).exists():
        raise SystemExit("the part `ray` needs Ray in build/ray-venv: make build/ray-venv/.ready")
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        subprocess.run(
            [python, "-m", "tests.bench.scale_ray", answer.name, "quick" if quick else "default"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=LIMIT_S,
        )
        return [Figure(**each) for each in json.loads(Path(answer.name).read_text())]


def measured(quick: bool) -> list[Figure]:
    """All of the part's figures, measured here."""
    each, seconds = (3, 0.5) if quick else (30, 1.5)
    first = run(1, each, seconds)
    several = run(ACTORS, ACTORS * each, seconds)
    killed = run(ACTORS, 60 if quick else 1000, 0.4, kills=3 if quick else 24)
    one, many = first.rate, several.rate
    note = f"{one:.2f} shards/s with one actor, {many:.2f} with {ACTORS}; {each} of {seconds} s for each"
    n = killed.shards
    again = sum(killed.begun.values()) - n
    lost = sum(not killed.rows[number] or not killed.results[number] for number in range(n))
    doubled = sum(killed.rows[number] > 1 or killed.results[number] > 1 for number in range(n))
    kept = f"{n} shards of 0.4 s, {ACTORS} actors, the engine replaces killed ones, {killed.seconds:.0f} s"
    return [
        figure("ray_speedup", many / one, unit="ratio", n=ACTORS, note=f"{note}; goal ≥ 7"),
        figure(
            "ray_first_shard_s",
            first.first_s,
            unit="s",
            note="from the call, without a running Ray, to the first shard's beginning; goal ≤ 10",
        ),
        figure("node_kills_ray", killed.kills, n=n, note=f"{kept}; goal ≥ 20"),
        figure("node_kill_lost_ray", lost, n=n, note="shards without a row or a result; goal 0"),
        figure("node_kill_doubled_ray", doubled, n=n, note="shards with two rows or two results; goal 0"),
        figure("node_kill_redone_ray", again / n, unit="share", n=n, note="begun again; goal ≤ 0.03"),
    ]


class Run:
    """One stage's shards on Ray, and what became of them."""

    def __init__(self, shards: int) -> None:
        self.shards, self.kills = shards, 0
        self.started = time.time()
        self.results: Counter[int] = Counter()
        self.rows: Counter[int] = Counter()

    def read(self, folder: Path) -> None:
        """Read `shards.log`."""
        lines = [line.split() for line in (folder / LOG).read_text().splitlines()]
        begins = [(float(at), pid, int(number)) for at, pid, number, what in lines if what == "begins"]
        self.begun = Counter(number for _, _, number in begins)
        self.first_s = begins[0][0] - self.started
        end = max(float(line[0]) for line in lines)
        self.seconds = end - begins[0][0]
        firsts = {pid: at for at, pid, _ in reversed(begins)}
        self.processes = len(firsts)
        since = max(firsts.values())
        # What is under way when the last actor begins is not counted, which is at the cost of the rate.
        self.rate = sum(at >= since for at, _, _ in begins) / (end - since)


def run(actors: int, shards: int, seconds: float, kills: int = 0) -> Run:
    """Run so many shards on so many actors of a fresh Ray, and kill actors meanwhile."""
    from pipelines.runtime.context import Context
    from pipelines.services.rounds import start_round
    from pipelines.worker.config import RayConfig
    from pipelines.worker.ray_shards import run_on_ray
    from storage.opening import create_workspace
    from tests.pipelines import toys

    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    with (
        on_postgres(),
        ray_of_its_own(shards, seconds, actors),
        tempfile.TemporaryDirectory(prefix="ray-", dir=harness.RESULTS) as folder,
    ):
        workspace = create_workspace(Path(folder) / "w")
        row = start_round(workspace, {}, stages=waiting_shards.STAGES)
        context = Context(workspace, toys.no_models("cpu"))
        parts = waiting_shards.shards(context, row.id)
        settings = RayConfig(num_cpus=0.01, actors=actors)
        found = Run(shards)
        over = threading.Event()
        pause = 0.6 * shards * seconds / actors / max(kills, 1)
        killer = threading.Thread(target=kill_actors, args=(found, workspace.path / LOG, kills, pause, over))
        killer.start()
        try:
            # Killed actors would be waited for.
            work = waiting_shards.run_shard if kills else waiting_shards.run_shard_together
            answers = run_on_ray(context, row.id, work, parts, MODELS, settings)
        finally:
            over.set()
            killer.join()
        found.results.update(answer["number"] for answer in answers)
        with workspace.catalog(read_only=True) as catalog:
            found.rows.update(prompt.index for prompt in catalog.prompts.of_round(row.id, "survey"))
        found.read(workspace.path)
        workspace.close()
    assert kills or found.processes == actors, f"{found.processes} of {actors} took part"
    return found


@contextmanager
def ray_of_its_own(shards: int, seconds: float, actors: int) -> Iterator[None]:
    """The shards' settings in the environment of a Ray that the block starts."""
    import ray

    # By default Ray's processes give way to every other one: what else the machine does would be measured.
    os.environ |= {
        SHARDS_VARIABLE: str(shards),
        SECONDS_VARIABLE: str(seconds),
        TOGETHER_VARIABLE: str(actors),
        "RAY_worker_niceness": "0",
    }
    try:
        yield
    finally:
        ray.shutdown()


def kill_actors(found: Run, log: Path, kills: int, pause: float, over: threading.Event) -> None:
    """Kill a random actor that has begun a shard, at random moments, until `kills` were killed."""
    chance = random.Random(0)
    while found.kills < kills and not over.wait(chance.uniform(0.5, 1.5) * pause):
        if alive := actors_of(log):
            os.kill(chance.choice(alive), signal.SIGKILL)
            found.kills += 1


def actors_of(log: Path) -> list[int]:
    """The living actors that have begun a shard. Ray names their processes, so that a number that another
    process has by now is left alone."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [pid for pid in sorted({int(line.split()[1]) for line in lines}) if "ShardActor" in title(pid)]


def title(pid: int) -> str:
    """The command line of a process; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def main() -> None:
    """Measure, and write the figures as JSON to the file that is named."""
    found = measured(sys.argv[2] == "quick")
    Path(sys.argv[1]).write_text(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()
