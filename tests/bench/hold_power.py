"""Part `power`: power cuts while people submit, and how many durable submits a second.

The cuts are those of `tests.power`, on a loop device (root), or where none can be had those of
`tests.power_replay`. Their control, the same people without waiting for the disk, has to lose something in
the same run; else the cuts prove nothing and have no figures.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import power_replay
from tests.bench import harness
from tests.bench.annotate_load import SIDE, WRITERS, many_writers
from tests.bench.annotate_server import served, soft_image, workspace_with_queue
from tests.bench.harness import Figure, figure, full, quick
from tests.bench.postgres import on_postgres
from tests.power import Cut, PowerCuts, why_not

SEED = 0
CUTS_A_DISK = 4
MEMORY = Path("/dev/shm")


def figures() -> list[Figure]:
    """All of the part's figures."""
    found = []
    if why_not() and (reason := power_replay.why_not()):
        print(f"power cuts are left out: {why_not()}, and {reason}", flush=True)
    else:
        with scratch() as folder:
            found += cut_figures(folder)
    with scratch() as folder:
        rate, spread = submit_rate(folder)
    note = f"{WRITERS} writers over HTTP, {SIDE}², SQLite, each answer durable, read back and compared"
    if MEMORY.is_dir():
        with scratch(MEMORY) as folder:
            note += f"; {submit_rate(folder)[0]:.0f} where the workspace is in memory (tmpfs)"
    found.append(figure("submits_per_s", rate, spread, "submits/s", WRITERS * each(), note))
    if full():
        with scratch() as folder, on_postgres():
            rate, spread = submit_rate(folder)
        note = f"{WRITERS} writers over HTTP, {SIDE}², PostgreSQL with fsync, each answer durable"
        found.append(figure("submits_per_s_postgresql", rate, spread, "submits/s", WRITERS * each(), note))
    return found


@contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A folder on the disk that the repository is on, which is a real one, or elsewhere."""
    place = where or harness.RESULTS
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hold-", dir=place) as folder:
        yield Path(folder)


# ---- power cuts --------------------------------------------------------------------------------------------


def cut_figures(folder: Path) -> list[Figure]:
    """Cuts, and what was lost in them. Raises `RuntimeError` when the control loses nothing."""
    disks = 1 if quick() else 3
    means = "recorded writes replayed" if why_not() else "ext4"
    rng = random.Random(SEED)
    found = [cut for disk in range(disks) for cut in cuts(folder / f"disk{disk}", rng, durable=True)]
    control = list(cuts(folder / "control", rng, durable=False))
    if not any(cut.lost for cut in control):
        raise RuntimeError("the control without syncs lost nothing, so the power cuts prove nothing")
    worst = max(control, key=lambda cut: len(cut.lost))
    answers = sum(
        max(cut.acknowledged for cut in found[start : start + CUTS_A_DISK])
        for start in range(0, len(found), CUTS_A_DISK)
    )
    note = f"{answers} answers acknowledged, each looked for after every later cut"
    careless = (
        f"the same without waiting for the disk lost {len(worst.lost)} of {worst.acknowledged}, "
        f"up to {worst.oldest_lost_s:.1f} s old"
    )
    lost, dangling = sum(len(cut.lost) for cut in found), sum(len(cut.dangling) for cut in found)
    return [
        figure("power_cuts", len(found), n=disks, note=f"at random moments, four people submitting, {means}"),
        figure("power_cut_lost", lost, unit="answers", n=answers, note=f"{note}; {careless}"),
        figure("power_cut_dangling", dangling, unit="rows", n=answers, note="rows without their blob"),
    ]


def cuts(folder: Path, rng: random.Random, durable: bool) -> Iterator[Cut]:
    """Cuts of one disk, at random moments of the people's work."""
    for cut in replayed(folder, rng, durable) if why_not() else mounted(folder, rng, durable):
        word = "durable" if durable else "control"
        print(
            f"  {word}: {len(cut.lost)} of {cut.acknowledged} lost, {len(cut.dangling)} dangling",
            flush=True,
        )
        yield cut


def replayed(folder: Path, rng: random.Random, durable: bool) -> Iterator[Cut]:
    """Cuts of recorded writes."""
    return power_replay.cuts(folder, CUTS_A_DISK, rng, 1.0 if quick() else 5.0, durable, SIDE)


def mounted(folder: Path, rng: random.Random, durable: bool) -> Iterator[Cut]:
    """Cuts of a loop device."""
    with PowerCuts(folder) as disk, disk.people(side=SIDE, images=2000, durable=durable) as people:
        for _ in range(CUTS_A_DISK):
            time.sleep(rng.uniform(0.2, 1.0 if quick() else 5.0))
            yield disk.cut(people)


# ---- submits a second --------------------------------------------------------------------------------------


def each() -> int:
    """Submits of one writer."""
    return 5 if quick() else 60


def submit_rate(folder: Path) -> tuple[float, tuple[float, float]]:
    """Submits a second of all writers together, with its interval."""
    names = [f"writer{number}" for number in range(WRITERS)]
    coarse = [soft_image(number, 64) for number in range(WRITERS * each())]
    images = [image.repeat(SIDE // 64, 0).repeat(SIDE // 64, 1) for image in coarse]
    workspace = workspace_with_queue(folder / "workspace", images, [], names)
    try:
        with served(workspace) as url:
            return many_writers(workspace, url, names, each())
    finally:
        workspace.close()
