"""What `bench-trainingfree` draws with: rows of images by shared prompts and seeds, watched, judged and kept.

Everything lies in parts under `build/bench/kept/trainingfree`; what lies there is not drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.clinic.world import Prompt, prompts
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import Dynamics
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import Steppers, as_tensor, generate
from dataengine.treatment.sampling.trajectory import Recorder, map_of
from tests.bench.harness import RESULTS, device, quick
from tests.bench.treatment_rows import FLAWED, ClinicModels

WORK = RESULTS / "kept" / ("trainingfree-quick" if quick() else "trainingfree")
SEED = {"validation": 20_000, "evaluation": 30_000}
FOLDS = 10
"""Parts whose KIDs are compared pair by pair, each an unbiased estimate of its own."""
SAMPLING = {
    "flux": SamplingConfig(steps=10, batch=32),
    "sd": SamplingConfig(steps=25, batch=32, guidance=3.0),
    "ddpm": SamplingConfig(steps=25, batch=32),
}
SIGMAS = (2 / 256, 1 / 32, 1 / 16)
"""Smoothing that is chosen among: the released value, half a latent, a latent."""
FORMS = {f"robust, σ {sigma:.3g}": DynamicsConfig(sigma=sigma) for sigma in SIGMAS} | {
    "paper's threshold": DynamicsConfig(form="paper")
}
SCORES: dict[str, Callable[[Dynamics], float]] = {
    "furthest": lambda found: float(found.excess.max()),
    "regions": lambda found: float(found.regions.mean()),
    "strength": lambda found: found.strength,
}
"""What an image is judged by as a whole."""


@dataclass(frozen=True)
class Sizes:
    """How much is drawn."""

    part: int
    validation: int
    accuracy: int
    """Most images drawn to find flawed and clean ones among."""
    kind: int
    """Flawed images, and clean ones, that accuracy stands on."""
    kid: int
    fid: int
    """Images of a row whose FID is taken."""
    clean: int
    """Images of which the clean ones get a clean region corrected."""


SIZES = Sizes(8, 16, 16, 4, 16, 16, 8) if quick() else Sizes(50, 300, 1000, 100, 1000, 5000, 300)


@dataclass(frozen=True)
class ImageRow:
    """Images with what is seen in them, rows alike."""

    images: np.ndarray
    judged: np.ndarray
    """The judge's confidence, uint8 NHW."""
    categories: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def flawed(self) -> np.ndarray:
        return self.judged.max((1, 2)) >= round(255 * FLAWED)


def prompts_of_row(use: str, count: int) -> list[Prompt]:
    """Prompts in an order of all categories, repeated where the world has fewer."""
    known = prompts(use, min(count, 400))
    return [known[i % len(known)] for i in range(count)]


def generate_row(
    clinic: ClinicModels,
    row: str,
    family: Callable[[], GeneratorFamily],
    sampling: SamplingConfig,
    use: str,
    count: int,
    steer: Callable[[Sequence[str], Sequence[int]], Steppers] | None = None,
    watched: Mapping[str, DynamicsConfig] | None = None,
) -> ImageRow:
    """Images of a row, in parts that are kept; prompts and seeds are the same for all rows."""
    folder, opened = WORK / row / use, None
    all_prompts, parts = prompts_of_row(use, count), []
    for start in range(0, count, SIZES.part):
        file = folder / f"{start}-{SIZES.part}.npz"
        if not file.is_file():
            opened = opened or family()
            rows = range(start, min(start + SIZES.part, count))
            told, seeds = [all_prompts[i].text for i in rows], [SEED[use] + i for i in rows]
            steppers = None if steer is None else steer(told, seeds)
            recorders: dict[str, list[Recorder]] = {name: [] for name in watched or {}}
            if watched:
                steppers = partial(_record_all, watched, recorders)
            images = generate(opened, told, seeds, sampling, steppers=steppers)
            kept = {"images": images, "judged": _judge_confidence(clinic, images)} | _dynamics(
                recorders, images
            )
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, **kept)
            part.replace(file)
        with np.load(file, allow_pickle=False) as stored:
            parts.append({key: stored[key] for key in stored.files})
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return ImageRow(
        images=joined.pop("images"),
        judged=joined.pop("judged"),
        categories=np.array([prompt.category for prompt in all_prompts]),
        extras=joined,
    )


def _record_all(
    watched: Mapping[str, DynamicsConfig], recorders: dict[str, list[Recorder]], rows: slice
) -> Any:
    """Recorders inside each other, so that one drawing serves all settings."""
    stepper = None
    for name, config in watched.items():
        stepper = Recorder(config) if stepper is None else Recorder(config, stepper)
        recorders[name].append(stepper)
    return stepper


def _dynamics(recorders: Mapping[str, list[Recorder]], images: np.ndarray) -> dict[str, np.ndarray]:
    kept = {}
    for name, batches in recorders.items():
        found = [each for recorder in batches for each in recorder.dynamics()]
        maps = np.stack([map_of(each, images.shape[1:3]) for each in found])
        kept[f"{name}|map"] = np.rint(255 * maps).astype(np.uint8)
        kept[f"{name}|abnormal"] = np.stack([each.abnormal.mean((1, 2)) for each in found])
        for score, of in SCORES.items():
            kept[f"{name}|{score}"] = np.array([of(each) for each in found])
    return kept


@torch.no_grad()
def _judge_confidence(clinic: ClinicModels, images: np.ndarray) -> np.ndarray:
    found = torch.cat([clinic.judge.confidence(part) for part in as_tensor(images).to(device()).split(32)])
    return np.rint(255 * found.cpu().numpy()).astype(np.uint8)


def kid_by_fold(real: Tensor, vectors: Tensor) -> np.ndarray:
    """KID of each fold, unbiased (Bińkowski et al. 2018), in the classifier's features."""
    from torchmetrics.image.kid import poly_mmd

    folds = zip(real.chunk(FOLDS), vectors.chunk(FOLDS), strict=True)
    return np.array([float(poly_mmd(*pair)) for pair in folds])
