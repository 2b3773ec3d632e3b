"""`make bench-detector-speed`: does decoding keep up with training, and our pipeline with the bare network?

On one core: the loader alone against the training step, and stored images through the catalog's pipeline
against the forward pass on ready batches; then what channels-last, fused AdamW and `torch.compile` bring.
What a graphics card makes of SegFormer-b5 is `make bench-detector-gpu`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dataengine.clinic.training.first_detector import FIRST_DETECTOR
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.dataset import BalancedSampler
from dataengine.diagnosis.detector import NetworkDetector, save_detector
from dataengine.diagnosis.training import collate
from dataengine.records import DetectorVersion, SnapshotItem
from pipelines.config import DiagnoseConfig, PublishConfig
from pipelines.demo.data import ingest
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.predict import predict
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import real_items
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.shards import shard_bounds
from storage.opening import create_workspace
from tests.bench.detector_gpu import training_step
from tests.bench.harness import Figure, quick, timing_ratio, write

IMAGES = 64 if quick() else 2048
LOADED = 64 if quick() else 512
BATCH = 8 if quick() else 16
PAIRS = 2 if quick() else 9
STEPS = 2 if quick() else 6


@contextmanager
def one_core() -> Iterator[None]:
    """A single thread for tensors, as the goals ask."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def stored() -> Iterator[tuple[Context, list[SnapshotItem], Path]]:
    """A workspace with images, the snapshot rows that train on them, and a fresh detector's folder."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = create_workspace(Path(folder) / "workspace")
        drawings = stream("photos")
        ingest(workspace, "photos", ((i, drawings[i]) for i in range(IMAGES)), "real", "train")
        context = Context(workspace, real_models("cpu"))
        save_detector(NetworkDetector.fresh(FIRST_DETECTOR, 0), Path(folder) / "detector")
        yield (
            context,
            real_items(read_training_data(context.workspace), "train", PublishConfig()),
            Path(folder) / "detector",
        )


def loader_over_step(context: Context, items: list[SnapshotItem]) -> Figure:
    """Rate of decoding and augmenting over the rate of the training step, each alone on one core."""
    config = DetectorTrainingConfig(batch=BATCH, device="cpu", detector=FIRST_DETECTOR)
    samples = StoredSamples(context.workspace, items)
    sampler = BalancedSampler.over(
        samples, mixture=config.mixture, balance=config.balance, batch=BATCH, seed=0
    )
    steps = iter(range(10**9))

    def load() -> Any:
        # A fresh reader each time, so that nothing is served from its cache of decoded pictures.
        fresh = StoredSamples(context.workspace, items)
        batches = [
            collate([fresh.sample(i) for i in sampler.indices(step)], FIRST_DETECTOR.size, config, step)
            for step in (next(steps) for _ in range(STEPS))
        ]
        return batches[-1]

    batch = load()
    detector = NetworkDetector.fresh(FIRST_DETECTOR, 0)
    step = training_step(detector, config, batch)
    return timing_ratio(
        "loader_over_step",
        lambda: [step() for _ in range(STEPS)],
        load,
        PAIRS,
        f"goal ≥ 3; 64² PNG, batch {BATCH}, one core",
    )


def infer_rate_ratio(context: Context, items: list[SnapshotItem], folder: Path) -> Figure:
    """Rate of stored images through `predict`, with maps and rows stored, relative to the forward pass on
    batches.

    The images go through as a stage's do in one worker: shard after shard, the detector opened by the first.
    """
    workspace = context.workspace
    checkpoint = workspace.checkpoints.publish(folder)
    names = [f"speed-{number}" for number in range(PAIRS + 1)]
    with workspace.catalog() as catalog:
        images = catalog.images.get_many([item.image_id for item in items])
        for name in names:
            catalog.detectors.add(DetectorVersion(id=name, name="speed", checkpoint=checkpoint))
        catalog.commit()
    detector = context.models.open_detector(workspace.checkpoints.fetch(checkpoint))
    ready = torch.rand(len(images), 3, FIRST_DETECTOR.size, FIRST_DETECTOR.size)
    stage = DiagnoseConfig()

    def whole() -> None:
        worker, name = Context(workspace, real_models("cpu")), names.pop()
        for start, stop in shard_bounds(len(images), stage.shard):
            predict(worker, name, images[start:stop], stage.batch)

    @torch.inference_mode()
    def bare() -> None:
        for part in ready.split(stage.batch):
            detector.confidence(part)

    note = (
        f"goal ≥ 0.95; bare forward time over the pipeline's, {len(images)} images of 64² in shards of "
        f"{stage.shard}, batches of {stage.batch}"
    )
    return timing_ratio("infer_rate_ratio", bare, whole, PAIRS, note)


def variants(context: Context, items: list[SnapshotItem]) -> Iterator[Figure]:
    """Training time without a change over the time with it; above 1 the change helps."""
    config = DetectorTrainingConfig(batch=BATCH, device="cpu", detector=FIRST_DETECTOR)
    samples = StoredSamples(context.workspace, items)
    batch = collate([samples.sample(i) for i in range(BATCH)], FIRST_DETECTOR.size, config, 0)
    plain = training_step(NetworkDetector.fresh(FIRST_DETECTOR, 0), config, batch)
    last = NetworkDetector.fresh(FIRST_DETECTOR, 0).to(memory_format=torch.channels_last)
    fresh = NetworkDetector.fresh(FIRST_DETECTOR, 0)
    changed = {
        "channels_last_gain": training_step(last, config, batch),
        "fused_adamw_gain": training_step(fresh, config, batch, fused=True),
    }
    for id, step in changed.items():
        yield timing_ratio(id, plain, step, PAIRS, "one core, 64²; above 1: it helps; off by default")


def main() -> None:
    figures: list[Figure] = []
    with one_core(), stored() as (context, items, folder):
        figures.append(loader_over_step(context, items[:LOADED]))
        figures.append(infer_rate_ratio(context, items, folder))
        figures += variants(context, items)
    write("detector_speed", figures, [0])


if __name__ == "__main__":
    main()
