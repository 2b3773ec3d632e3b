"""A DDPM in pixels for `bench-trainingfree`: trained on drawings of which some are flawed, 64 × 64.

The judge works at that size: on drawings of half the size, enlarged, half of what it marks is no flaw. On a
GPU it learns all that the world shows. Two cores have time for hands alone, by a smaller network, in an hour
or two; so there it is for FULL, and used always once it is kept.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.treatment.config import UNetConfig
from dataengine.treatment.families.unconditional import new_unet_family
from dataengine.treatment.refining.config import RefiningConfig
from dataengine.treatment.refining.trainer import RESULT, refine
from tests.bench.guided_sampling import KEEPER
from tests.bench.harness import device, full, quick


@dataclass(frozen=True)
class DdpmTraining:
    """What a DDPM is, and what it learns from for how long."""

    channels: tuple[int, ...]
    drawings: int
    categories: Sequence[str] | None
    """None: all."""
    plan: RefiningConfig

    @property
    def description(self) -> str:
        """In words."""
        shows = "all categories" if self.categories is None else " and ".join(self.categories) + " alone"
        return f"{shows}, {self.plan.steps} updates of {self.plan.batch}"


ORDINARY = RefiningConfig(refinement=0.0, lr=2e-4, ema=0.999)


def _lasting(steps: int, batch: int, **others: object) -> RefiningConfig:
    return ORDINARY.model_copy(update={"steps": steps, "batch": batch, **others})


TINY = DdpmTraining((8, 16), 16, None, _lasting(2, 2))
ON_CPU = DdpmTraining((16, 32, 64, 128), 6000, ["hand"], _lasting(10_000, 16, lr=5e-4, ema=0.999))
ON_GPU = DdpmTraining((32, 64, 96, 128), 20_000, None, _lasting(20_000, 64, precision="bfloat16"))
DDPM = TINY if quick() else ON_CPU if device() == "cpu" else ON_GPU


def trained_ddpm() -> Path | None:
    """The pipeline's folder; None where it was never trained and would take too long."""
    folder = KEEPER.folder("ddpm", DDPM)
    if (folder / RESULT).is_dir():
        return folder / RESULT
    if not (quick() or full() or device() != "cpu"):
        return None
    shown = render(stream("generator", categories=DDPM.categories), range(DDPM.drawings))
    network = UNetConfig(side=64, channels=DDPM.channels, attention=len(DDPM.channels) // 2)
    images = shown.images.permute(0, 2, 3, 1).numpy()
    return refine(
        DDPM.plan, new_unet_family(network, 0).to(device()), images, folder, report=MinuteReport()
    ).folder


class MinuteReport:
    """A `Report` that prints a line a minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
        if time.monotonic() - self._last > 60:
            self._last = time.monotonic()
            print(f"ddpm: {done} of {total}, {figures}", flush=True)
