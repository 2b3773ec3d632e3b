"""Writers on the annotation API: how many submits a second, none lost, none doubled; and next to a real
workload."""

import base64
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import now
from storage.workspace import Workspace
from tests.bench.annotate_server import PASSWORD, artifact_map, served, soft_image, workspace_with_queue
from tests.bench.harness import ROOT, Figure, bootstrap, figure, p95

SIDE = 512
WRITERS = 8

TRAIN = """
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
torch.set_num_threads(1)
config = SegformerConfig(num_labels=1, hidden_sizes=[32, 64, 160, 256])
model = SegformerForSemanticSegmentation(config)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
print("training", flush=True)
while True:
    images, target = torch.rand(8, 3, 128, 128), torch.rand(8, 1, 32, 32)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images).logits, target)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


def load_figures(scratch: Path, each: int, alone: int) -> list[Figure]:
    """Submits by eight writers at once, then by one next to a training and a worker."""
    names = [f"writer{number}" for number in range(WRITERS)]
    count = each * WRITERS + alone
    images = [soft_image(number, 64).repeat(SIDE // 64, 0).repeat(SIDE // 64, 1) for number in range(count)]
    workspace = workspace_with_queue(scratch / "load", images, [artifact_map(0, 64)] * 0, names)
    with served(workspace) as url:
        rate, spread = many_writers(workspace, url, names, each)
        with beside_work(workspace):
            times = one_writer(workspace, url, names[0], alone)
    workspace.close()
    note = (
        f"{WRITERS} writers, {SIDE}², SQLite, each label map read back and compared; none lost, none doubled"
    )
    return [
        figure("submits_per_s", rate, spread, "submits/s", each * WRITERS, note),
        p95(
            "submit_p95_under_jobs_ms",
            times,
            note="one writer; a SegFormer training and a worker on the workspace at the same time",
        ),
    ]


def label_map(number: int) -> np.ndarray:
    """Uint8 SIDE×SIDE: three strokes of classes 1 to 3, different for every number."""
    found = np.zeros((SIDE, SIDE), np.uint8)
    rng = np.random.default_rng([9, number])
    for value in (1, 2, 3):
        top, left = rng.integers(0, SIDE - 90, 2)
        found[top : top + 60, left : left + 80] = value
    return found


class Writer:
    """A signed-in client that holds leases."""

    def __init__(self, workspace: Workspace, url: str, name: str, count: int) -> None:
        self.name = name
        self.client = httpx.Client(base_url=url, timeout=60)
        answer = self.client.post("/api/login", json={"name": name, "password": PASSWORD})
        answer.raise_for_status()
        self.client.headers["X-Clinic-CSRF"] = answer.json()["csrf"]
        with workspace.catalog() as catalog:
            leases = [catalog.queue.next(name, now(), 3600) for _ in range(count)]
            catalog.commit()
        self.leases = [lease for lease in leases if lease is not None]
        self.sent: dict[str, int] = {}
        self.times: list[float] = []
        self.ended: list[float] = []

    def submit_all(self, first: int) -> None:
        for number, lease in enumerate(self.leases, first):
            body = {
                "lease": lease.id,
                "image": lease.image_id,
                "revision": 0,
                "label_map": base64.b64encode(pack_label_map(label_map(number))).decode(),
                "seconds": 5.0,
                "key": uuid.uuid4().hex,
            }
            started = time.perf_counter()
            self.client.post("/api/annotate/submit", json=body).raise_for_status()
            self.times.append(1000 * (time.perf_counter() - started))
            self.ended.append(time.perf_counter())
            self.sent[lease.image_id] = number


def many_writers(
    workspace: Workspace, url: str, names: list[str], each: int
) -> tuple[float, tuple[float, float]]:
    """Submits a second, with its interval over stretches of time. Fails if one is lost or doubled."""
    writers = [Writer(workspace, url, name, each) for name in names]
    threads = [
        threading.Thread(target=writer.submit_all, args=(each * number,))
        for number, writer in enumerate(writers)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = np.sort(np.concatenate([writer.ended for writer in writers])) - started
    for writer in writers:
        check_stored(workspace, writer, each)
    bins = np.histogram(ended, bins=10, range=(0, ended[-1]))[0] / (ended[-1] / 10)
    return len(ended) / float(ended[-1]), bootstrap(bins)


def check_stored(workspace: Workspace, writer: Writer, count: int) -> None:
    """Every label is there once, as it was sent."""
    with workspace.catalog(read_only=True) as catalog:
        labels = catalog.labels.by(writer.name)
    if len(labels) != count or len({label.image_id for label in labels}) != count:
        raise AssertionError(f"{len(labels)} labels by {writer.name}, {count} were sent")
    for label in labels:
        found = unpack_label_map(workspace.blobs.get(label.label_map or ""), SIDE, SIDE)
        if not np.array_equal(found, label_map(writer.sent[label.image_id])):
            raise AssertionError(f"the label map of {label.image_id} is not what was sent")


def one_writer(workspace: Workspace, url: str, name: str, count: int) -> list[float]:
    """Milliseconds of each submit."""
    writer = Writer(workspace, url, name, count)
    writer.submit_all(10_000)
    return writer.times


@contextmanager
def beside_work(workspace: Workspace) -> Iterator[None]:
    """A worker of the workspace, and a training in a process of its own, while the block runs."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "app", "--workspace", str(workspace.path), "worker"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    training = subprocess.Popen([sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True)
    try:
        assert training.stdout is not None
        training.stdout.readline()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with workspace.catalog(read_only=True) as catalog:
                if catalog.workers.alive(now() - 5):
                    break
            time.sleep(0.2)
        yield
    finally:
        for process in (training, worker):
            process.terminate()
        for process in (training, worker):
            process.wait(20)
