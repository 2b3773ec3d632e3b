"""`make bench-detector-gpu`: what a graphics card makes of SegFormer-b5 at 512².

Rates of training and of looking in bf16, memory, the share of the card's own matrix-product rate, and what
`torch.compile`, channels-last and fused AdamW bring; then the product's own training in fp16. Batches are
random and lie ready on the card; weights are random too. Nothing here needs the catalog, so it runs where
only PyTorch, transformers and pydantic are installed. Every section is written as it ends, and one that
fails says so in its place.

`--tiny --device cpu` proves every section in seconds.
"""

import argparse
import gc
import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.diagnosis.config import DetectorConfig, DetectorTrainingConfig, published_config
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector, artifact_maps
from dataengine.diagnosis.losses import map_loss
from dataengine.diagnosis.training import Batch, parameter_groups, train_detector
from tests.bench.harness import Figure, bootstrap, figure, timing_ratio, write

COMPILE_SECONDS = 90.0
"""Longest that compiling may take, the first updates included."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and where."""

    device: str
    detector: DetectorConfig
    train_batches: tuple[int, ...]
    look_batches: tuple[int, ...]
    side: int
    """Of the matrices whose product sets the card's rate."""
    repeats: int
    pairs: int
    compile_seconds: float = COMPILE_SECONDS
    backend: str = "inductor"
    """Of `torch.compile`."""

    @property
    def config(self) -> DetectorTrainingConfig:
        """Training as `recipes.paper_detector()`, in bf16 with the smallest batch."""
        return DetectorTrainingConfig(
            batch=self.train_batches[0], precision="bf16", detector=self.detector, device=self._device
        )

    @property
    def _device(self) -> Any:
        return "cpu" if self.device == "cpu" else "auto"


def full_plan(device: str) -> Plan:
    return Plan(
        device=device,
        detector=published_config("b5"),
        train_batches=(8, 32),
        look_batches=(8, 64),
        side=8192,
        repeats=12,
        pairs=7,
    )


def tiny_plan(device: str) -> Plan:
    return Plan(
        device=device,
        detector=published_config("b0").model_copy(update={"size": 64}),
        train_batches=(2, 4),
        look_batches=(2, 4),
        side=256,
        repeats=2,
        pairs=2,
    )


def training_step(
    detector: NetworkDetector,
    config: DetectorTrainingConfig,
    batch: Batch,
    fused: bool = False,
    model: Callable[..., Any] | None = None,
) -> Callable[[], None]:
    """One update on a ready batch, as `train_detector` makes it; `model`: the detector, compiled."""
    device = detector.mean.device
    detector.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(parameter_groups(detector, config), fused=fused)
    images, targets, weights, counted = (
        each.to(device) for each in (batch.images, batch.targets, batch.weights, batch.counted)
    )
    answer = detector if model is None else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = answer(images)
        optimizer.zero_grad()
        map_loss(predicted, targets, weights, counted).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), config.clip)
        optimizer.step()

    return step


def random_batch(plan: Plan, count: int) -> Batch:
    """Random images with random masks of full weight."""
    size = plan.detector.size
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=draw)
    masks = torch.rand(count, size, size, generator=draw).round()
    return Batch(images=images, targets=masks, weights=torch.ones(count), counted=torch.ones_like(masks))


def look_of(plan: Plan, detector: NetworkDetector, count: int, bf16: bool = True) -> Callable[[], None]:
    """The forward pass of a ready batch, without gradient."""
    images = random_batch(plan, count).images.to(plan.device)
    device = torch.device(plan.device).type

    @torch.inference_mode()
    def look() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            detector.confidence(images)

    return look


def waited(action: Callable[[], object], device: str) -> Callable[[], None]:
    """The action and the wait for the card to have done it."""
    wait = (lambda: None) if device == "cpu" else (lambda: torch.cuda.synchronize(device))

    def run() -> None:
        wait()
        action()
        wait()

    return run


def seconds_of(action: Callable[[], object], plan: Plan, warm: int = 3) -> list[float]:
    """Seconds of single calls, after unmeasured ones."""
    run, taken = waited(action, plan.device), []
    for index in range(warm + plan.repeats):
        started = time.perf_counter()
        run()
        if index >= warm:
            taken.append(time.perf_counter() - started)
    return taken


def rate(id: str, count: float, taken: list[float], unit: str, note: str) -> Figure:
    """`count` over the median time, with its bootstrap interval."""
    middle = lambda drawn: count / float(np.median(drawn))  # noqa: E731
    return figure(id, middle(taken), bootstrap(taken, middle), unit, len(taken), note)


def gain(plan: Plan, id: str, plain: Callable[[], None], changed: Callable[[], None], note: str) -> Figure:
    """Time without a change over the time with it, interleaved, two calls a sample."""

    def twice(step: Callable[[], None]) -> Callable[[], None]:
        return waited(lambda: (step(), step()), plan.device)

    return timing_ratio(id, twice(plain), twice(changed), plan.pairs, f"{note}; above 1: it helps")


def peak_gb(plan: Plan, action: Callable[[], object]) -> float:
    """Most memory of the card in use while the action runs; 0 without a card."""
    if plan.device == "cpu":
        action()
        return 0.0
    torch.cuda.reset_peak_memory_stats(plan.device)
    waited(action, plan.device)()
    return torch.cuda.max_memory_allocated(plan.device) / 2**30


def operations(action: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions; the action must run uncompiled."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


class TooLong(Exception):
    """Something was given up."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooLong` inside the block once the time is over (main thread only)."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"given up after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again every five seconds, in case a library swallows the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """The sections, in order; later ones read what the first has measured."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.peak = math.nan
        """The card's matrix-product rate in operations a second."""
        self.what = f"{plan.detector.name.removeprefix('DiffDoctor ')}, {plan.detector.size}², bf16"

    @cached_property
    def _first(self) -> NetworkDetector:
        return NetworkDetector.fresh(self.plan.detector, 0)

    def fresh(self) -> NetworkDetector:
        """A separate detector on the card; initialising b5's weights takes seconds, copying them does not."""
        return deepcopy(self._first).to(self.plan.device)

    def matrices(self) -> Iterator[Figure]:
        """The card's own rate."""
        side, device = self.plan.side, self.plan.device
        a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
        taken = seconds_of(lambda: a @ b, self.plan)
        self.peak = 2 * side**3 / float(np.median(taken))
        yield rate(
            "gpu_matmul_tflops", 2 * side**3 / 1e12, taken, "TFLOP/s", f"bf16, {side}³, random matrices"
        )

    def training(self) -> Iterator[Figure]:
        """Updates with ready batches."""
        for count in self.plan.train_batches:
            step = training_step(self.fresh(), self.plan.config, random_batch(self.plan, count))
            yield from self._rates(f"gpu_train_b{count}", count, step)

    def looking(self) -> Iterator[Figure]:
        """Forward passes over ready batches."""
        detector = self.fresh().eval().requires_grad_(False)
        for count in self.plan.look_batches:
            yield from self._rates(f"gpu_infer_b{count}", count, look_of(self.plan, detector, count))

    def _rates(self, id: str, count: int, action: Callable[[], None]) -> Iterator[Figure]:
        """Images a second, memory, and the share of the card's matrix-product rate."""
        taken = seconds_of(action, self.plan)
        note = f"{self.what}, batch {count}, decoding and augmentation excluded"
        yield rate(f"{id}_per_s", count, taken, "images/s", note)
        memory = peak_gb(self.plan, action)
        yield figure(f"{id}_gb", memory, unit="GB", note="most memory of the card in use")
        done = operations(action)
        note = f"{done / count / 1e12:.3f} TFLOP of matrix products an image"
        yield rate(f"{id}_matmul_share", done / self.peak, taken, "share", note)

    def product(self) -> Iterator[Figure]:
        """What a worker does with a batch: arrays of bytes in, maps in the machine's memory out."""
        size, count = self.plan.detector.size, self.plan.look_batches[-1]
        pictures = list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))
        detector = self.fresh().eval().requires_grad_(False)
        taken = seconds_of(lambda: artifact_maps(detector, pictures, count), self.plan, warm=1)
        yield rate(
            "gpu_maps_per_s",
            count,
            taken,
            "images/s",
            f"artifact_maps, batch {count}, float32, copies included",
        )
        whole = look_of(self.plan, detector, count, bf16=False)
        yield rate(
            "gpu_infer_float32_per_s", count, seconds_of(whole, self.plan), "images/s", "ready batch, float32"
        )

    def layout(self) -> Iterator[Figure]:
        """Channels-last weights and images."""
        config, batch = self.plan.config, random_batch(self.plan, self.plan.config.batch)
        last = self.fresh().to(memory_format=torch.channels_last)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        turned = Batch(images=images, targets=batch.targets, weights=batch.weights, counted=batch.counted)
        plain = training_step(self.fresh(), config, batch)
        changed = training_step(last, config, turned)
        yield gain(self.plan, "gpu_channels_last_gain", plain, changed, f"training, {self.what}")

    def fused(self) -> Iterator[Figure]:
        """One kernel for the optimizer."""
        config, batch = self.plan.config, random_batch(self.plan, self.plan.config.batch)
        plain = training_step(self.fresh(), config, batch)
        changed = training_step(self.fresh(), config, batch, fused=True)
        yield gain(self.plan, "gpu_fused_adamw_gain", plain, changed, f"training, {self.what}")

    def half(self) -> Iterator[Figure]:
        """The product's own training in fp16 with loss scaling: a few updates with finite losses."""
        size, count = self.plan.detector.size, self.plan.config.batch
        draw = np.random.default_rng(0)
        samples = [
            Sample(
                image=draw.integers(0, 256, (size, size, 3), dtype=np.uint8),
                target=np.full((size, size), index % 2, np.float32),
                kind="true",
            )
            for index in range(count)
        ]
        steps = 6
        # fp16 needs a card; without one the section shows that the rest of it works.
        precision: Any = "no" if self.plan.device == "cpu" else "fp16"
        config = self.plan.config.model_copy(update={"precision": precision, "steps": steps})
        with tempfile.TemporaryDirectory() as folder:
            losses = train_detector(config, MemorySamples(samples), None, Path(folder)).losses
        sound = len(losses) == steps and all(math.isfinite(loss) for loss in losses)
        note = f"precision {precision}, losses {', '.join(f'{loss:.3f}' for loss in losses)}"
        yield figure("gpu_fp16_trains", sound, n=steps, note=note)

    def compiled(self) -> Iterator[Figure]:
        """`torch.compile` in its default mode; last, since compiling may be cut off in the middle."""
        config, batch = self.plan.config, random_batch(self.plan, self.plan.config.batch)
        detector = self.fresh()
        changed = training_step(
            detector, config, batch, model=torch.compile(detector, backend=self.plan.backend)
        )
        plain = training_step(self.fresh(), config, batch)
        started = time.perf_counter()
        with at_most(self.plan.compile_seconds):
            waited(changed, self.plan.device)()
        spent = time.perf_counter() - started
        yield figure("gpu_compile_s", spent, unit="s", note="the first update, compiling included")
        memory = peak_gb(self.plan, changed)
        yield figure("gpu_compiled_train_gb", memory, unit="GB", note=f"batch {config.batch}")
        yield gain(self.plan, "gpu_compile_gain", plain, changed, f"training, {self.what}, mode default")

    def sections(self) -> dict[str, Callable[[], Iterator[Figure]]]:
        """By name, in order."""
        found = (
            self.matrices,
            self.training,
            self.looking,
            self.product,
            self.layout,
            self.fused,
            self.half,
            self.compiled,
        )
        return {section.__name__: section for section in found}


def measure(plan: Plan, name: str = "detector_gpu", only: Sequence[str] = ()) -> list[Figure]:
    """All sections or those named; what each has found is written as it ends to `build/bench/NAME.json`."""
    figures: list[Figure] = []
    sections = Bench(plan).sections()
    for key in only or sections:
        started = time.perf_counter()
        try:
            figures.extend(sections[key]())
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            figures.append(figure(f"{key}_failed", text))
        gc.collect()
        if plan.device != "cpu":
            torch.cuda.empty_cache()
        write(name, figures, [0])
        print(f"{key}: {time.perf_counter() - started:.1f} s\n", flush=True)
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a b0 at 64²: proves that the command works")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", default="", help="sections, with commas, written to detector_gpu_part.json")
    parser.add_argument("--compile-seconds", type=float, default=COMPILE_SECONDS)
    options = parser.parse_args(argv)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA card here; --tiny --device cpu proves that the command works")
    plan = tiny_plan(options.device) if options.tiny else full_plan(options.device)
    only = [each for each in options.only.split(",") if each]
    name = "detector_gpu" + ("_tiny" if options.tiny else "_part" if only else "")
    measure(replace(plan, compile_seconds=options.compile_seconds), name, only)


if __name__ == "__main__":
    main()
