"""`make bench-detector-speed`: does decoding keep up with training, and our pipeline with the bare network?

On one core: the loader alone against the training step, and stored images through the catalog's pipeline
against the forward pass on ready batches; then what channels-last, fused AdamW and `torch.compile` bring.
With a GPU at hand: SegFormer-b5 at 512² in bf16, training and inference rates, memory, share of the card's
matrix-product rate.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.clinic.training.first_doctor import FIRST_DOCTOR
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DetectorTrainingConfig, published_config
from dataengine.diagnosis.dataset import BalancedSampler
from dataengine.diagnosis.detector import NetworkDetector, save_detector
from dataengine.diagnosis.training import collate, map_loss, parameter_groups
from dataengine.records import DetectorVersion, SnapshotItem
from pipelines.composition import real
from pipelines.config import PublishConfig
from pipelines.context import Context
from pipelines.demo_data import ingest
from pipelines.diagnose import predict
from pipelines.samples import StoredSamples
from pipelines.tools import real_tools
from storage.workspace import Workspace
from tests.bench.harness import Figure, figure, quick, timing_ratio, write

IMAGES = 64 if quick() else 512
BATCH = 8 if quick() else 16
PAIRS = 2 if quick() else 9
STEPS = 2 if quick() else 6
GPU_SIZE, GPU_BATCH = 512, 8


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
    """A workspace with drawings, the rows that train on them, and a fresh detector's folder."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.create(Path(folder) / "workspace")
        drawings = stream("photos")
        ingest(workspace, "photos", ((i, drawings[i]) for i in range(IMAGES)), "real", "train")
        context = Context(workspace, real_tools("cpu"))
        save_detector(NetworkDetector.fresh(FIRST_DOCTOR, 0), Path(folder) / "detector")
        yield context, real(context, "train", PublishConfig()), Path(folder) / "detector"


def loader_over_step(context: Context, items: list[SnapshotItem]) -> Figure:
    """Rate of decoding and augmenting over the rate of the training step, each alone on one core."""
    config = DetectorTrainingConfig(batch=BATCH, device="cpu", detector=FIRST_DOCTOR)
    samples = StoredSamples(context.workspace, items)
    sampler = BalancedSampler.over(
        samples, mixture=config.mixture, balance=config.balance, batch=BATCH, seed=0
    )
    steps = iter(range(10**9))

    def load() -> Any:
        # A fresh reader each time, so that nothing is served from its cache of decoded pictures.
        fresh = StoredSamples(context.workspace, items)
        batches = [
            collate([fresh.sample(i) for i in sampler.indices(step)], FIRST_DOCTOR.size, config, step)
            for step in (next(steps) for _ in range(STEPS))
        ]
        return batches[-1]

    batch = load()
    detector = NetworkDetector.fresh(FIRST_DOCTOR, 0)
    step = training_step(detector, config, batch)
    return timing_ratio(
        "loader_over_step",
        lambda: [step() for _ in range(STEPS)],
        load,
        PAIRS,
        f"goal ≥ 3; 64² PNG, batch {BATCH}, one core",
    )


def training_step(
    detector: NetworkDetector, config: DetectorTrainingConfig, batch: Any, fused: bool = False
) -> Callable[[], None]:
    """One update on a ready batch, as `train_detector` makes it."""
    device = detector.mean.device
    detector.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(parameter_groups(detector, config), fused=fused)
    images, targets, weights, counted = (
        each.to(device) for each in (batch.images, batch.targets, batch.weights, batch.counted)
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = detector(images)
        optimizer.zero_grad()
        map_loss(predicted, targets, weights, counted).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), config.clip)
        optimizer.step()

    return step


def infer_rate_ratio(context: Context, items: list[SnapshotItem], folder: Path) -> Figure:
    """Rate of stored images through `predict`, with maps and rows kept, over the forward pass on batches."""
    workspace = context.workspace
    checkpoint = workspace.checkpoints.publish(folder)
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.get_many([item.image_id for item in items])
    detector = context.tools.open_detector(workspace.checkpoints.fetch(checkpoint))
    ready = torch.rand(len(images), 3, FIRST_DOCTOR.size, FIRST_DOCTOR.size)
    numbers = iter(range(10**9))

    def whole() -> None:
        version = DetectorVersion(id=f"speed-{next(numbers)}", name="speed", checkpoint=checkpoint)
        with workspace.catalog() as catalog:
            catalog.detectors.add(version)
            catalog.commit()
        predict(context, version.id, images, 32)

    @torch.inference_mode()
    def bare() -> None:
        for part in ready.split(32):
            detector.confidence(part)

    return timing_ratio(
        "infer_rate_ratio", bare, whole, PAIRS, "goal ≥ 0.95; bare forward time over the pipeline's time, 64²"
    )


def variants(context: Context, items: list[SnapshotItem]) -> Iterator[Figure]:
    """Training time without a change over the time with it; above 1 the change helps."""
    config = DetectorTrainingConfig(batch=BATCH, device="cpu", detector=FIRST_DOCTOR)
    samples = StoredSamples(context.workspace, items)
    batch = collate([samples.sample(i) for i in range(BATCH)], FIRST_DOCTOR.size, config, 0)
    plain = training_step(NetworkDetector.fresh(FIRST_DOCTOR, 0), config, batch)
    last = NetworkDetector.fresh(FIRST_DOCTOR, 0).to(memory_format=torch.channels_last)
    changed = {
        "channels_last_gain": training_step(last, config, batch),
        "fused_adamw_gain": training_step(NetworkDetector.fresh(FIRST_DOCTOR, 0), config, batch, fused=True),
    }
    for id, step in changed.items():
        yield timing_ratio(id, plain, step, PAIRS, "one core, 64²; above 1: it helps; off by default")


# ---- with a GPU --------------------------------------------------------------------------------------


def matrix_rate(device: str) -> float:
    """The card's bf16 matrix-product rate in TFLOP/s, 8192³."""
    side = 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / timed(lambda: a @ b, device) / 1e12


def timed(action: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Median seconds of one call, after three unmeasured ones."""
    taken = []
    for index in range(repeats + 3):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        action()
        torch.cuda.synchronize(device)
        if index >= 3:
            taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def on_gpu(device: str = "cuda:0") -> Iterator[Figure]:
    """SegFormer-b5 at 512², bf16: rates, memory, share of the matrix-product rate, what changes bring."""
    from torch.utils.flop_counter import FlopCounterMode

    peak = matrix_rate(device)
    yield figure("gpu_matmul_tflops", peak, unit="TFLOP/s", note="bf16, 8192³")
    config = DetectorTrainingConfig(batch=GPU_BATCH, precision="bf16", detector=published_config("b5"))
    shape = (GPU_BATCH, GPU_SIZE, GPU_SIZE)
    batch = _GpuBatch(torch.rand(GPU_BATCH, 3, GPU_SIZE, GPU_SIZE), torch.rand(shape).round())
    for name in ("plain", "channels_last", "fused_adamw", "compiled"):
        detector = NetworkDetector.fresh(published_config("b5"), 0).to(device)
        if name == "channels_last":
            detector = detector.to(memory_format=torch.channels_last)
        if name == "compiled":
            detector.network.compile()
        step = training_step(detector, config, batch, fused=name == "fused_adamw")
        torch.cuda.reset_peak_memory_stats(device)
        rate = GPU_BATCH / timed(step, device)
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        yield figure(
            f"gpu_train_{name}_per_s", rate, unit="images/s", note=f"b5, 512², bf16, {memory:.1f} GB"
        )
        if name != "plain":
            continue
        with FlopCounterMode(display=False) as counter:
            step()
        share = counter.get_total_flops() * rate / GPU_BATCH / 1e12 / peak
        yield figure("gpu_train_matmul_share", share, unit="share", note="of the matrix-product rate")
        detector.eval()
        images = batch.images.to(device)

        @torch.inference_mode()
        def look(detector: NetworkDetector = detector, images: torch.Tensor = images) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                detector.confidence(images)

        yield figure(
            "gpu_infer_per_s", GPU_BATCH / timed(look, device), unit="images/s", note="b5, 512², bf16"
        )


class _GpuBatch:
    """A ready batch of full weight."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.images, self.targets = images, targets
        self.weights, self.counted = torch.ones(len(images)), torch.ones_like(targets)


def main() -> None:
    figures: list[Figure] = []
    with one_core(), stored() as (context, items, folder):
        figures.append(loader_over_step(context, items))
        figures.append(infer_rate_ratio(context, items, folder))
        figures += variants(context, items)
    if torch.cuda.is_available():
        figures += on_gpu()
    write("detector_speed", figures, [0])


if __name__ == "__main__":
    main()
