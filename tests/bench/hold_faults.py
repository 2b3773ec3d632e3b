"""Part `faults`: rounds while the disk fills up, the database goes away or the blob store falls silent.

Each round of fakes meets one fault of 8 to 25 s, in a stage chosen at random. A round ends by itself when
nobody had to resume it, and is hung when it has not ended in `END_SECONDS` after the fault. What the rounds
left is compared with one that met no fault.
"""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.round import ROUND
from pipelines.services.rounds import resume_round
from storage.workspace import BLOB_VARIABLE
from tests import faulty_store
from tests.bench.harness import Figure, figure, full, quick
from tests.bench.rehearsal import ROUND_OF_FAKES, Stage, compare, staged
from tests.faults import (
    full_disk,
    locked_sqlite,
    paused_postgres,
    small_disk,
    stopped_postgres,
    why_no_disk,
)
from tests.services import database, postgres_cluster

SEED = 0
EACH = 1 if quick() else 4
"""Rounds with each kind of fault."""
FAULT_SECONDS = (8.0, 10.0) if quick() else (8.0, 25.0)
END_SECONDS = 180.0
AT_ONCE = 3
MOST_RESUMES = 5
LIMITS = {"CLINIC_STORE_SECONDS": "4"}
STAGES = [stage.name for stage in ROUND]

_beginning = threading.Lock()
"""Migrations of two workspaces at once in one process are more than Alembic can do."""


@dataclass(frozen=True)
class Met:
    """How a round went that met a fault."""

    fault: str
    stage: str
    resumed: int
    hung: bool
    left: dict[str, Any] | None


def figures() -> list[Figure]:
    """All of the part's figures. Raises `RuntimeError` when a round lost or doubled something."""
    rng = random.Random(SEED)
    kinds: dict[str, Place] = {"database": locked, "store": remote}
    if reason := why_no_disk():
        print(f"full disks are left out: {reason}", flush=True)
    else:
        kinds["disk"] = limited
    found = rounds(kinds, rng)
    hung, alone = [met for met in found if met.hung], [met for met in found if not (met.hung or met.resumed)]
    each = ", ".join(f"{sum(met.fault == kind for met in found)} × {kind}" for kind in kinds)
    seconds = f"{FAULT_SECONDS[0]:.0f} to {FAULT_SECONDS[1]:.0f} s"
    wrong = ", ".join(f"{met.fault} in {met.stage}" for met in found if met.hung or met.resumed)
    note = f"{each}, each in a round of fakes, {seconds}, in a stage at random"
    figures = [
        figure("faults", len(found), n=len(found), note=note),
        figure("hung_rounds", len(hung), unit="rounds", n=len(found), note="SQLite"),
        figure("ended_by_themselves", len(alone), unit="rounds", n=len(found), note=wrong or "all of them"),
    ]
    if full():
        with postgres_cluster(fsync=True) as server:
            on_server = {
                "stopped": lambda folder: beside(folder, server, stopped_postgres),
                "paused": lambda folder: beside(folder, server, paused_postgres),
            }
            # A fault hits the whole server, so that one round after the other meets its own.
            found = rounds(on_server, rng, at_once=1)
        by_hand = sum(met.resumed > 0 for met in found)
        note = f"PostgreSQL stopped or paused, {seconds}; {by_hand} resumed by hand"
        hung = [met for met in found if met.hung]
        figures.append(figure("hung_rounds_postgresql", len(hung), unit="rounds", n=len(found), note=note))
    return figures


Place = Callable[[Path], AbstractContextManager[tuple[Stage, AbstractContextManager[None]]]]
"""Begins a round in a folder; gives it, and its fault as a block."""


@contextmanager
def locked(folder: Path) -> Iterator[tuple[Stage, AbstractContextManager[None]]]:
    """Another process has SQLite's write locks."""
    with staged(ROUND_OF_FAKES, folder / "w", **LIMITS) as stage:
        path = stage.workspace.path
        yield stage, locked_sqlite(path / "catalog.sqlite", path / "jobs.sqlite")


@contextmanager
def remote(folder: Path) -> Iterator[tuple[Stage, AbstractContextManager[None]]]:
    """The blob store answers nothing."""
    store = folder / "store"
    environment = {BLOB_VARIABLE: faulty_store.url(store), **LIMITS}
    with staged(ROUND_OF_FAKES, folder / "w", **environment) as stage:
        yield stage, faulty_store.fault(store, "silent")


@contextmanager
def limited(folder: Path) -> Iterator[tuple[Stage, AbstractContextManager[None]]]:
    """The workspace's disk is full."""
    with small_disk(folder / "disk") as disk, staged(ROUND_OF_FAKES, disk / "w", **LIMITS) as stage:
        yield stage, full_disk(disk)


@contextmanager
def beside(
    folder: Path, server: str, fault: Callable[[str], AbstractContextManager[None]]
) -> Iterator[tuple[Stage, AbstractContextManager[None]]]:
    """The PostgreSQL server is away."""
    with ExitStack() as stack:
        url = stack.enter_context(database(server))
        stage = stack.enter_context(staged(ROUND_OF_FAKES, folder / "w", database_url=url, **LIMITS))
        yield stage, fault(server)


def rounds(kinds: dict[str, Place], rng: random.Random, at_once: int = AT_ONCE) -> list[Met]:
    """A round without a fault, and `EACH` with every kind of one. Raises `RuntimeError` when they differ."""
    plans = [(kind, rng.choice(STAGES), rng.uniform(*FAULT_SECONDS)) for kind in kinds for _ in range(EACH)]
    rng.shuffle(plans)
    with tempfile.TemporaryDirectory(prefix="faults") as scratch, ThreadPoolExecutor(at_once) as pool:
        folders = [Path(scratch) / str(number) for number in range(len(plans) + 1)]
        calm = pool.submit(meet, folders[0], next(iter(kinds.items())), "", 0.0)
        met = [
            pool.submit(meet, folder, (kind, kinds[kind]), stage, seconds)
            for folder, (kind, stage, seconds) in zip(folders[1:], plans, strict=True)
        ]
        expected = calm.result().left
        found = [each.result() for each in met]
    if expected is None:
        raise RuntimeError("a round without a fault did not end")
    for each in found:
        if each.left is not None and (wrong := compare(expected, each.left)) != (0, 0):
            raise RuntimeError(f"{each.fault} in {each.stage}: {wrong[0]} lost, {wrong[1]} doubled")
    return found


def meet(folder: Path, kind: tuple[str, Place], at: str, seconds: float) -> Met:
    """Let a round meet its fault in the stage `at` (none for ""), and see how it ends."""
    name, place = kind
    folder.mkdir()
    with ExitStack() as begun, ExitStack() as faults:
        with _beginning:
            stage, fault = begun.enter_context(place(folder))
        lasting, until, resumed = None, time.monotonic() + END_SECONDS, 0
        began = time.monotonic()
        while time.monotonic() < until:
            if lasting is None and at and reached(stage, at):
                faults.enter_context(fault)
                lasting, until = time.monotonic() + seconds, time.monotonic() + seconds + END_SECONDS
            if lasting is not None and time.monotonic() >= lasting:
                faults.close()
            over = lasting is None or time.monotonic() >= lasting
            if over and look(stage):
                break
            if over and stage.team.round_is(stage.round_id, "failed") and resumed < MOST_RESUMES:
                resume_round(stage.workspace, stage.round_id, "bench")
                resumed += 1
            stage.worker()
            if over:
                stage.keep_served()
            time.sleep(0.05)
        faults.close()
        hung = not look(stage)
        left = None if hung else ROUND_OF_FAKES.left(stage.workspace, stage.round_id)
        took = time.monotonic() - began
        said = "HUNG" if hung else f"ended, resumed {resumed} times"
        print(f"  {name} for {seconds:.0f} s in {at or 'no stage'}: {said}, {took:.0f} s", flush=True)
        if hung:
            print(stage.team.log()[-3000:], flush=True)
    return Met(name, at, resumed, hung, left)


def look(stage: Stage) -> bool:
    """Whether the round is done."""
    return stage.team.round_is(stage.round_id, "done")


def reached(stage: Stage, name: str) -> bool:
    """Whether the round is at this stage or beyond it."""
    with stage.workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(stage.round_id)
    return row.stage == name or name in row.results
