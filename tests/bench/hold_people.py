"""Part `people`: fifty people annotate over HTTP for five minutes, some with clumsy networks.

Each looks at the next image, thinks for 3 s ± 50 %, and submits. One submit in ten is sent twice at once,
one in ten is cut off on its way and sent again under its key. The people live in a child process
(`tests.bench.hold_people_load`) on the same cores; every answer is looked for in the catalog afterwards.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dataengine.records import Image, QueueItem, image_id
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench import harness
from tests.bench.annotate_server import PASSWORD, SETTINGS, png, soft_image
from tests.bench.harness import ROOT, Figure, figure, full, p95, quick
from tests.bench.postgres import on_postgres
from tests.bench.web_server import server_process

PEOPLE = 50
SIDE = 512
PICTURES = 32
"""Different images; the queue's rows share them."""


def figures() -> list[Figure]:
    """All of the part's figures."""
    found = under_load("SQLite")
    if full():
        with on_postgres():
            again = under_load("PostgreSQL")
        ids = ("annotators_wrong", "submit_p95_ms", "next_p95_ms")
        found += [renamed(one) for one in again if one.id in ids]
    return found


def renamed(one: Figure) -> Figure:
    return Figure(f"{one.id}_postgresql", one.value, one.interval, one.unit, one.n, one.note)


def under_load(database: str) -> list[Figure]:
    """Let the people work, then compare what they were told with what is stored."""
    seconds = 20.0 if quick() else 300.0
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hold-", dir=harness.RESULTS) as folder:
        names = [f"person{number:02d}" for number in range(PEOPLE)]
        workspace = queue_images(Path(folder) / "workspace", names, round(25 * seconds))
        with server_process(ROOT, workspace.path, *SETTINGS) as server:
            told, memory, cpu = let_work(server.url, [server.pid], names, seconds)
        wrong = compare(workspace, told)
        workspace.close()
    print(f"  {database}: {len(told['answers'])} answers, {dict(wrong)}, {cpu}", flush=True)
    load = (
        f"{PEOPLE} people, think time 3 s ± 50 %, {SIDE}², {database}, {os.cpu_count()} cores with the load"
    )
    said = ", ".join(f"{count} {what}" for what, count in wrong.items() if count) or "nothing was wrong"
    trials = f"{told['twice']} sent twice at once, {told['cut']} cut off and sent again"
    submits, nexts = told["submit_ms"], told["next_ms"]
    growth = memory_growth(memory, seconds)
    return [
        figure("annotators_answers", len(told["answers"]), unit="answers", note=f"{load}, {seconds:.0f} s"),
        figure("annotators_wrong", sum(wrong.values()), n=len(told["answers"]), note=f"{said}; {trials}"),
        p95("submit_p95_ms", submits, note=f"{load}; {cpu}; median {np.median(submits):.0f} ms"),
        p95("next_p95_ms", nexts, note=f"median {np.median(nexts):.0f} ms"),
        figure("server_growth", growth[0], unit="share", n=len(memory), note=growth[1]),
    ]


def queue_images(folder: Path, names: Sequence[str], count: int) -> Workspace:
    """A workspace in which `count` images wait for one opinion each, and the people have accounts."""
    workspace = create_workspace(folder)
    shas = workspace.blobs.put_many([png(soft_image(number, SIDE)) for number in range(PICTURES)])
    images = [
        Image(
            id=image_id(shas[number % PICTURES], "bench", f"image {number}", number),
            sha256=shas[number % PICTURES],
            height=SIDE,
            width=SIDE,
            prompt=f"image {number}",
            category="bench",
            seed=number,
        )
        for number in range(count)
    ]
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.queue.add_many(
            QueueItem(image_id=image.id, round_id="r", priority=-float(number))
            for number, image in enumerate(images)
        )
        for name in names:
            create_user(catalog, name, PASSWORD, ["annotator"], "bench")
        catalog.commit()
    return workspace


def let_work(
    url: str, servers: Sequence[int], names: Sequence[str], seconds: float
) -> tuple[dict[str, Any], list[tuple[float, int]], str]:
    """What the people report, the servers' memory by time (s, bytes), and whose the processors' time was."""
    command = [sys.executable, "-m", "tests.bench.hold_people_load", url, str(seconds), *names]
    served, memory = [psutil.Process(one) for one in servers], []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as people:
        assert people.stdout is not None
        try:
            if people.stdout.readline().strip() != "begin":
                raise RuntimeError(f"the people ended with {people.wait(20)}")
            everybody, began = [psutil.Process(people.pid), *served], time.monotonic()
            before = [busy(one) for one in everybody]
            while (passed := time.monotonic() - began) < seconds:
                memory.append((passed, sum(one.memory_info().rss for one in served)))
                time.sleep(1.0)
            spent = [busy(one) - earlier for one, earlier in zip(everybody, before, strict=True)]
            told = json.loads(people.stdout.read())
            people.wait(60)
        finally:
            people.kill()
    cores = (os.cpu_count() or 1) * passed
    served_share, load_share = sum(spent[1:]) / cores, spent[0] / cores
    share = f"of the processors' time the server had {served_share:.0%}, the load {load_share:.0%}"
    return told, memory, share


def busy(process: psutil.Process) -> float:
    """Seconds of processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def memory_growth(memory: Sequence[tuple[float, int]], seconds: float) -> tuple[float, str]:
    """Growth of the server's memory over the last four fifths of the time, and its ends in words."""
    width = seconds / 20
    start = [rss for at, rss in memory if seconds / 5 <= at < seconds / 5 + width]
    end = [rss for at, rss in memory if at >= seconds - width]
    first, last = float(np.median(start)), float(np.median(end))
    note = (
        f"over the last {0.8 * seconds / 60:.1f} minutes, from {first / 2**20:.0f} to {last / 2**20:.0f} MiB"
    )
    return last / first - 1, note


def compare(workspace: Workspace, told: Mapping[str, Any]) -> Counter[str]:
    """What was wrong, by kind: people's reports, and their answers against the catalog."""
    wrong = Counter(told["wrong"])
    given: dict[str, set[str]] = {}
    for image, person in told["given"]:
        given.setdefault(image, set()).add(person)
    wrong["double leases"] = sum(len(people) > 1 for people in given.values())
    with workspace.catalog(read_only=True) as catalog:
        labels = [
            label
            for person in sorted({who for _, who in told["given"]})
            for label in catalog.labels.by(person)
        ]
    stored = {(label.image_id, label.author): label for label in labels}
    for image, person, digest in told["answers"]:
        label = stored.get((image, person))
        if label is None or label.label_map != digest or not workspace.blobs.has(digest):
            wrong["lost"] += 1
    images = Counter(label.image_id for label in labels)
    wrong["doubled"] = sum(count - 1 for count in images.values())
    return wrong
