"""`make bench-memory-truth`: does preflight foretell the peak memory of a whole treatment?

One child process for every class that has a row treats its tiny pipeline on the CPU at a size at which
images and not the interpreter decide: it encodes, updates, measures with the guard, frees the tuned pipeline,
opens a fresh one with the saved LoRA, draws to verify and to judge, and predicts maps. Measured is the peak
of its resident memory (VmHWM, set back before) above what it held before, after one small treatment that has
imported everything; glibc returns freed memory at once (`RETURNED`). Preflight is `estimate_moments` on the
same folder, before. `ONLY=CLASS` measures one; QUICK two.
"""

import ctypes
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dataengine.quality.config import GuardConfig
from dataengine.quality.guard import Guard
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import as_tensor, draw, encode
from dataengine.treatment.tuning.moments import VERIFIED, estimate_moments
from dataengine.treatment.tuning.trainer import treat
from tests.bench.harness import Figure, figure, quick, write
from tests.dataengine.treatment.families.tiny_pipelines import TINY, save_tiny
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

RETURNED = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "OMP_NUM_THREADS": "1",
}
SIDES = {"AuraFlowPipeline": 64}
"""Where the tiny model's table of positions ends before `SIDE`."""
SIDE = 128
PIXELS = 12 * SIDE * SIDE
"""Of one batch."""
MEGABYTE = 1e6


def settings(side: int, batch: int) -> TreatmentConfig:
    return TreatmentConfig(
        updates=1,
        batch=batch,
        grad_steps=1,
        offline=None,
        sampling=SamplingConfig(steps=2, batch=batch, height=side, width=side),
        lora=LoraSettings(rank=2),
        guard=GuardConfig(prompts=2, seeds=2, every=1),
    )


def treatment(folder: Path, config: TreatmentConfig, work: Path) -> None:
    """A whole treatment, as the job does it."""
    detector, batch = ToyDetector(), config.sampling.batch
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(max(batch, 4))]
    family: Any = load_family(folder)
    treat(config, family, detector, prompts, None, [], Guard(config.guard, prompts[:2]), work)
    expected = drawn(family, prompts[:VERIFIED], config)
    del family
    gc.collect()
    fresh = load_family(folder, work / "lora")
    drawn(fresh, prompts[:VERIFIED], config)
    images = drawn(fresh, prompts[:batch], config)
    del fresh, expected
    gc.collect()
    with torch.no_grad():
        detector.confidence(images)


def drawn(family: Any, prompts: list[str], config: TreatmentConfig) -> torch.Tensor:
    images = draw(family, encode(family, prompts), list(range(len(prompts))), config.sampling)
    return as_tensor(images)


def resident(name: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(kind: str, found: Any) -> None:
    """Put preflight's bytes, the moment that it names, and the measured peak into `found`."""
    torch.set_num_threads(1)
    side = SIDES.get(kind, SIDE)
    config = settings(side, PIXELS // side**2)
    with tempfile.TemporaryDirectory() as place:
        folder = save_tiny(kind, Path(place) / "pipeline")
        foretold, _ = estimate_moments(
            config,
            folder,
            ToyDetector(),
            judging=config.sampling.batch,
            on_cpu=True,
            prompt=max(PROMPTS, key=len),
        ).peaks(on_cpu=True)
        treatment(folder, settings(side, 1), Path(place) / "warm")
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        treatment(folder, config, Path(place) / "measured")
        found.put((foretold.size, foretold.moment, resident("VmHWM") - before))


def ratios(kinds: list[str]) -> Iterator[Figure]:
    """Preflight over measured, by class; then the smallest and the largest."""
    context, values = multiprocessing.get_context("fork"), {}
    for kind in kinds:
        found = context.Queue()
        child = context.Process(target=measure, args=(kind, found))
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(f"the treatment of a {kind} ended with status {child.exitcode}")
        foretold, moment, measured = found.get()
        values[kind] = foretold / measured
        note = f"{foretold / MEGABYTE:.0f} MB in {moment}, measured {measured / MEGABYTE:.0f} MB"
        print(kind, round(values[kind], 3), note, flush=True)
        yield figure(f"estimate_over_measured_{kind}", values[kind], unit="ratio", n=1, note=note)
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    yield figure(
        "estimate_over_measured_min", values[low], unit="ratio", n=len(values), note=f"{low}; goal ≥ 0.9"
    )
    yield figure(
        "estimate_over_measured_max", values[high], unit="ratio", n=len(values), note=f"{high}; goal ≤ 1.15"
    )


def main() -> None:
    if any(os.environ.get(name) != value for name, value in RETURNED.items()):
        os.execve(sys.executable, [sys.executable, "-m", "tests.bench.memory_truth"], os.environ | RETURNED)
    only = os.environ.get("ONLY")
    kinds = [only] if only else list(TINY)[3:5] if quick() else list(TINY)
    write("memory_truth", list(ratios(kinds)), seeds=[0])


if __name__ == "__main__":
    main()
