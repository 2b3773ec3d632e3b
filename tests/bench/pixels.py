"""A DDPM in pixels for `bench-trainingfree`: trained on drawings of which some are flawed, 64 × 64.

The judge works at that size: on drawings of half the size, enlarged, half of what it marks is no flaw. Such a
training takes minutes on a GPU and a day on two cores, so there it is for FULL; once kept, it is used always.
"""

import time
from pathlib import Path

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.treatment.config import RefiningConfig, UNetConfig
from dataengine.treatment.refining import RESULT, refine
from dataengine.treatment.unconditional import fresh
from tests.bench.harness import device, full, quick
from tests.bench.steered import WORK

FOLDER = WORK / "ddpm"
NETWORK = UNetConfig(
    side=64, channels=(8, 16) if quick() else (32, 64, 96, 128), attention=1 if quick() else 2
)
DRAWINGS = 16 if quick() else 20_000
PLAN = RefiningConfig(
    steps=2 if quick() else 20_000,
    batch=2 if quick() else 64,
    refinement=0.0,
    lr=2e-4,
    ema=0.999,
    precision="float32" if device() == "cpu" else "bfloat16",
)


def trained() -> Path | None:
    """The pipeline's folder; None where it was never trained and would take too long."""
    if (FOLDER / RESULT).is_dir():
        return FOLDER / RESULT
    if not (quick() or full() or device() != "cpu"):
        return None
    images = render(stream("generator"), range(DRAWINGS)).images.permute(0, 2, 3, 1).numpy()
    return refine(PLAN, fresh(NETWORK, 0).to(device()), images, FOLDER, report=Told()).folder


class Told:
    """A `Report` that prints a line a minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, message: str = "", **figures: float) -> None:
        if time.monotonic() - self._last > 60:
            self._last = time.monotonic()
            print(f"ddpm: {done} of {total}, {figures}", flush=True)
