"""What `bench-trainingfree` generates with: rows of images by shared prompts and seeds, corrected or guided,
judged, their score dynamics recorded.

Rows are kept by `KEEPER` in parts, under the generator's weights and all settings of the row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.world import Prompt, prompts
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import Dynamics
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import Steppers, as_tensor, generate
from dataengine.treatment.sampling.trajectory import Recorder, dynamics_map
from tests.bench.earlier_rule import earlier_dynamics
from tests.bench.harness import Keeper, device, full, quick
from tests.bench.source_hash import weights_hash
from tests.bench.treatment_rows import FLAWED, ClinicModels

SEED = {"validation": 20_000, "evaluation": 30_000}
FOLDS = 10
"""Parts whose KIDs are compared pair by pair, each an unbiased estimate of its own."""
SAMPLING = {
    "flux": SamplingConfig(steps=10, batch=32),
    "sd": SamplingConfig(steps=25, batch=32, guidance=3.0),
    "ddpm": SamplingConfig(steps=25, batch=32),
}
FORMS = {
    "released": DynamicsConfig(),
    "released, σ 8": DynamicsConfig(sigma=1 / 32),
    "released, σ 16": DynamicsConfig(sigma=1 / 16),
    "released, on 8-bit images": DynamicsConfig(space="pixel"),
    "Eq. 4 alone": DynamicsConfig(form="paper"),
}
"""Rules that are chosen among, on latents but for one; σ in pixels at 256, the released value is 2."""
MOMENTS = (0.3, 0.48, 0.7) if quick() else (0.3, 0.4, 0.48, 0.6, 0.7)
"""T_c / T, counted from noise = 1."""
UP_TO = {
    f"released, up to {moment:g}": DynamicsConfig(stop=moment, start=max(0.8, round(moment + 0.2, 2)))
    for moment in MOMENTS
}
"""The released rule on the frames that are known at T_c; two of them at least."""
EARLIER = {f"earlier rule, σ {sigma}": DynamicsConfig(sigma=sigma / 256) for sigma in (2, 16)}
"""The rule before 2026-11-30, beside them and never chosen."""
SCORES: dict[str, Callable[[Dynamics], float]] = {
    "furthest": lambda found: float(found.excess.max()),
    "regions": lambda found: float(found.regions.mean()),
    "strength": lambda found: found.strength,
}
"""What an image is judged by as a whole."""


@dataclass(frozen=True)
class Sizes:
    """How much is generated, in the default and the long form alike."""

    part: int
    validation: int
    accuracy: int
    """Most images generated to find flawed and clean ones among."""
    kind: int
    """Numbers of flawed and of clean images that accuracy is computed from."""
    kid: int
    """Images of a long run's row whose KID is taken."""
    fid: int
    """Images of a row whose FID is taken."""
    clean: int
    """Images of which the clean ones get a clean region corrected."""


SIZES = Sizes(8, 16, 16, 4, 16, 16, 8) if quick() else Sizes(50, 300, 700, 100, 1000, 5000, 300)
COMPARED = SIZES.kid if quick() or full() else 300
"""Images of every row of corrections; a longer row begins with the images of a shorter one."""
KEEPER = Keeper(
    "trainingfree",
    modules=("tests.bench.trainingfree",),
    settings={"sizes": SIZES, "device": device()},
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


@dataclass(frozen=True)
class Generator:
    """A generator's folder, and the LoRA that it is opened with."""

    base: Path
    lora: Path | None = None

    def open(self) -> GeneratorFamily:
        """Loaded on the bench's device."""
        return load_family(self.base, lora=self.lora, device=device())

    @property
    def facts(self) -> dict[str, Any]:
        """What images by it depend on."""
        return {"base": weights_hash(self.base), "lora": self.lora and weights_hash(self.lora)}


@dataclass(frozen=True)
class Steering:
    """How sampling is corrected or guided: the settings, and steppers for prompts and seeds by them."""

    config: BaseModel
    detector: str
    """Hash of the detector that it uses."""
    steppers: Callable[[Sequence[str], Sequence[int]], Steppers]

    @property
    def facts(self) -> dict[str, Any]:
        """What images steered so depend on."""
        return {"config": self.config.model_dump(mode="json"), "detector": self.detector}


@dataclass(frozen=True)
class ImageRow:
    """Images with the judge's predictions, in the same order."""

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
    generator: Generator,
    sampling: SamplingConfig,
    use: str,
    count: int,
    steering: Steering | None = None,
    recorded: Mapping[str, DynamicsConfig] | None = None,
) -> ImageRow:
    """Images of a row, cached in parts; prompts and seeds are the same for all rows."""
    family: GeneratorFamily | None = None
    prompts_asked, parts = prompts_of_row(use, count), []
    settings = {
        "generator": generator.facts,
        "sampling": sampling,
        "steering": steering and steering.facts,
        "recorded": recorded,
        "seed": SEED[use],
    }

    def make(rows: range) -> dict[str, np.ndarray]:
        nonlocal family
        family = family or generator.open()
        texts, seeds = [prompts_asked[i].text for i in rows], [SEED[use] + i for i in rows]
        steppers = None if steering is None else steering.steppers(texts, seeds)
        recorders: dict[str, list[WatchingBoth]] = {name: [] for name in recorded or {}}
        if recorded:
            steppers = partial(_record_all, recorded, recorders)
        images = generate(family, texts, seeds, sampling, steppers=steppers)
        judged = judge_confidence(clinic, images)
        return {"images": images, "judged": judged} | _dynamics(recorders, images)

    for start in range(0, count, SIZES.part):
        rows = range(start, min(start + SIZES.part, count))
        part = {"texts": [prompts_asked[i].text for i in rows]} | settings
        parts.append(KEEPER.arrays(f"{row}/{use}/{start}-{len(rows)}", partial(make, rows), part))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return ImageRow(
        images=joined.pop("images"),
        judged=joined.pop("judged"),
        categories=np.array([prompt.category for prompt in prompts_asked]),
        extras=joined,
    )


class WatchingBoth(Recorder):
    """A recorder that can tell its frames' dynamics by the earlier rule too."""

    def earlier_dynamics(self) -> list[Dynamics]:
        """The dynamics of every image by the earlier rule."""
        return [earlier_dynamics(each, self._config) for each in np.stack(self._frames, axis=1)]


def _record_all(
    recorded: Mapping[str, DynamicsConfig], recorders: dict[str, list[WatchingBoth]], rows: slice
) -> Any:
    """Recorders inside each other, so that one sampling serves all settings."""
    stepper = None
    for name, config in recorded.items():
        stepper = WatchingBoth(config) if stepper is None else WatchingBoth(config, stepper)
        recorders[name].append(stepper)
    return stepper


def _dynamics(recorders: Mapping[str, list[WatchingBoth]], images: np.ndarray) -> dict[str, np.ndarray]:
    kept = {}
    for name, batches in recorders.items():
        found = [
            each
            for recorder in batches
            for each in (recorder.earlier_dynamics() if name in EARLIER else recorder.dynamics())
        ]
        maps = np.stack([dynamics_map(each, images.shape[1:3]) for each in found])
        kept[f"{name}|map"] = np.rint(255 * maps).astype(np.uint8)
        kept[f"{name}|abnormal"] = np.stack([each.abnormal.mean((1, 2)) for each in found])
        for score, of in SCORES.items():
            kept[f"{name}|{score}"] = np.array([of(each) for each in found])
    return kept


@torch.no_grad()
def judge_confidence(clinic: ClinicModels, images: np.ndarray) -> np.ndarray:
    found = torch.cat([clinic.judge.confidence(part) for part in as_tensor(images).to(device()).split(32)])
    return np.rint(255 * found.cpu().numpy()).astype(np.uint8)


def kid_by_fold(real: Tensor, vectors: Tensor) -> np.ndarray:
    """KID of each fold, unbiased (Bińkowski et al. 2018), in the classifier's features."""
    from torchmetrics.image.kid import poly_mmd

    folds = zip(real.chunk(FOLDS), vectors.chunk(FOLDS), strict=True)
    return np.array([float(poly_mmd(*pair)) for pair in folds])
