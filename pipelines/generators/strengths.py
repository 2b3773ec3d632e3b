"""Images of a treated generator at several strengths of its LoRA."""

from collections.abc import Sequence

import numpy as np

from dataengine.records import GeneratorVersion
from dataengine.treatment.config import SamplingConfig
from pipelines.generators.draw import open_generator
from pipelines.runtime.context import Context

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
"""0 is the base, 1 is as trained."""


def draw_strengths(
    context: Context,
    version: GeneratorVersion,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    strengths: Sequence[float] = STRENGTHS,
    first_seed: int = 0,
) -> dict[float, np.ndarray]:
    """Images uint8 NHWC by strength, one per prompt, of the same seeds."""
    from dataengine.treatment.tuning import sharing

    family = open_generator(context, version)
    seeds = [first_seed + index for index in range(len(prompts))]
    images = {}
    for number, strength in enumerate(strengths):
        context.report(number, len(strengths), "drawing strengths of the LoRA")
        sharing.set_strength(family, strength)
        images[float(strength)] = context.models.generate(family, list(prompts), seeds, sampling)
    return images
