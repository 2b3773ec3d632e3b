"""Rows of `bench-treatment`'s objectives: Direct-Align, and localized preference on pairs made on the clinic.

A pair's loser is an image of a treating prompt with a flaw, its winner the same image with that region
redrawn by the generator itself, where the teacher, who stands in for people, finds nothing any more.
"""

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from dataengine.clinic.oracles import load_teacher
from dataengine.clinic.parts import materialise
from dataengine.treatment.config import DirectConfig, PixelConfig, PreferenceConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.inpainting import inpaint
from dataengine.treatment.objectives.preference import PreferencePairs
from dataengine.treatment.sampling.sampler import as_tensor, generate
from tests.bench.harness import device, quick
from tests.bench.treatment_rows import FLAWED, KEEPER, PLAN, ClinicModels, plan_with

DRAWN = 2 if quick() else 12
"""Images of each treating prompt that pairs are made of."""
REDRAWN = 2 if quick() else 4
"""Seeds of each redrawing; the first that the teacher finds clean wins."""
FIRST_SEED = 20_000
GROWTH = 2
"""Pixels by which the teacher's region is grown before it is redrawn."""


def teacher_maps(images: np.ndarray) -> np.ndarray:
    """The teacher's confidence, float32 NHW, of images uint8 NHWC."""
    teacher = load_teacher(materialise("teacher", KEEPER.folder("clinic/teacher"))).to(device())
    with torch.no_grad():
        parts = as_tensor(images).split(64)
        return torch.cat([teacher.confidence(part.to(device())) for part in parts]).float().cpu().numpy()


def preference_pairs(clinic: ClinicModels) -> PreferencePairs:
    """Pairs on treating prompts, made once; the number of flawed images is that of losers tried."""
    texts = [text for text in clinic.treating for _ in range(DRAWN)]

    def make() -> dict[str, np.ndarray]:
        family = load_family(clinic.flux, device=device())
        images = generate(family, texts, list(range(FIRST_SEED, FIRST_SEED + len(texts))), PLAN.sampling)
        maps = teacher_maps(images)
        losers = np.flatnonzero(maps.max((1, 2)) >= FLAWED)
        marked = maps[losers] >= FLAWED
        masks = np.stack([ndimage.binary_dilation(mask, iterations=GROWTH) for mask in marked])
        winners, done = images[losers].copy(), np.zeros(len(losers), bool)
        for turn in range(REDRAWN):
            left = np.flatnonzero(~done)
            if not len(left):
                break
            seeds = [FIRST_SEED + turn * 100_000 + int(row) for row in losers[left]]
            prompts = [texts[row] for row in losers[left]]
            redrawn = inpaint(family, images[losers[left]], masks[left], prompts, seeds, PLAN.sampling)
            clean = teacher_maps(redrawn).max((1, 2)) < FLAWED
            winners[left[clean]], done[left[clean]] = redrawn[clean], True
        return {
            "winners": winners[done],
            "losers": images[losers][done],
            "masks": masks[done],
            "rows": losers[done],
            "flawed": np.asarray([len(losers)]),
        }

    settings = {"prompts": texts, "redrawn": REDRAWN, "growth": GROWTH, "sampling": PLAN.sampling}
    found = KEEPER.arrays("preference-pairs", make, settings)
    return PreferencePairs(
        winners=list(found["winners"]),
        losers=list(found["losers"]),
        masks=list(found["masks"]),
        prompts=[texts[row] for row in found["rows"]],
    )


def objective_rows() -> dict[str, TreatmentConfig]:
    """Both objectives with all else as in the other rows."""
    return {
        "direct": plan_with(truncation="direct", direct=DirectConfig()),
        "preference": plan_with(pixel=PixelConfig(weight=0.0), preference=PreferenceConfig()),
    }


def teacher_figures(images: np.ndarray) -> dict[str, Any]:
    """What the teacher sees in images uint8 NHWC: which are flawed, and its highest confidence."""
    highest = teacher_maps(images).max((1, 2))
    return {"flawed": highest >= FLAWED, "highest": highest}
