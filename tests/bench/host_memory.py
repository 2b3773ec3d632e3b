"""`make bench-host-memory`: does a treatment's host memory grow with the number of its prompts?

Two child processes treat a tiny FLUX, one with 300 prompts and one with 30,000, all of which are encoded and
as many clean images; each says how far its memory grew. QUICK compares 3,000 with 300.
"""

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.harness import Figure, figure, quick, write

FEW, MANY = 300, 30_000
GOAL_MB = 50


class Images:
    """`count` clean images that are made when they are asked for."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> list[np.ndarray]:
        numbers = range(*rows.indices(self.count))
        return [np.full((self.side, self.side, 3), number % 256, dtype=np.uint8) for number in numbers]


def texts(count: int) -> list[str]:
    """`count` prompts of four words that the tiny tokenizers know, all different up to 10,000."""
    words = ["a", "red", "blue", "house", "tree", "cats", "on", "mat", "sign", "yes"]
    return [" ".join(words[number // 10**place % 10] for place in range(4)) for number in range(count)]


def grown(pipeline: Path, work: Path, count: int, found: Any) -> None:
    """Put into `found` how many megabytes this process's peak memory grew by while it encoded `count` prompts
    and images and made two updates with them."""
    from resource import RUSAGE_SELF, getrusage

    import torch

    from dataengine.errors import Paused
    from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
    from dataengine.treatment.families.loading import load_family
    from dataengine.treatment.tuning.trainer import treat
    from tests.dataengine.treatment.tiny import SIDE, ToyDetector

    torch.set_num_threads(1)
    config = TreatmentConfig(
        updates=count,
        batch=1,
        grad_steps=1,
        sampling=SamplingConfig(steps=2, batch=32),
        lora=LoraSettings(rank=2),
    )
    updates = 0

    def pausing() -> bool:
        nonlocal updates
        updates += 1
        return updates == 2

    def treated(prompts: list[str], folder: Path) -> None:
        nonlocal updates
        updates = 0
        clean: Any = Images(len(prompts), SIDE)
        try:
            treat(
                config,
                load_family(pipeline),
                ToyDetector(),
                prompts,
                clean,
                prompts,
                None,
                folder,
                pausing=pausing,
            )
        except Paused:
            return

    treated(texts(64), work / "warm")
    before = getrusage(RUSAGE_SELF).ru_maxrss
    treated(texts(count), work / "measured")
    found.put((getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024)


def host_growth(few: int = FEW, many: int = MANY) -> Figure:
    """`host_growth_mb`: how much more `many` prompts take than `few`."""
    from tests.dataengine.treatment import tiny

    context = multiprocessing.get_context("spawn")
    megabytes = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline = tiny.flux(Path(folder) / "flux")
        for count in (few, many):
            found = context.Queue()
            child = context.Process(target=grown, args=(pipeline, Path(folder) / str(count), count, found))
            child.start()
            megabytes.append(found.get(timeout=3600))
            child.join()
    note = (
        f"{many:,} prompts and images over {few:,}, tiny FLUX; {megabytes[1]:.1f} and {megabytes[0]:.1f} MB"
    )
    return figure("host_growth_mb", megabytes[1] - megabytes[0], unit="MB", note=f"{note}; goal ≤ {GOAL_MB}")


def main() -> None:
    write("host_memory", [host_growth(many=3_000) if quick() else host_growth()], seeds=[0])


if __name__ == "__main__":
    main()
