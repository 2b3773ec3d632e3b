"""DreamBooth (Ruiz et al. 2023) in two runs of `tuning.treat`: an instance LoRA, then its treatment.

First the diffusion loss on images of the instance and on generated images of its class (prior preservation);
then the same layers are treated on instance and class prompts (DiffDoctor, "DiffDoctor on DreamBooth").
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.diagnosis.detector import Detector
from dataengine.errors import ConfigRefused
from dataengine.quality.guard import Guard
from dataengine.records import Report, no_report
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import generate
from dataengine.treatment.tuning.trainer import TreatmentResult, treat


def learn_instance(
    config: TreatmentConfig,
    family: GeneratorFamily,
    images: Sequence[np.ndarray],
    instance_prompt: str,
    class_prompt: str,
    work: Path,
    class_images: int = 200,
    report: Report = no_report,
) -> TreatmentResult:
    """Train an instance LoRA; see `presets.dreambooth` for the settings. Resumes the run in `work`.

    `images`, uint8 HWC of any sizes, show the instance; `instance_prompt` names it by a rare word ("a sks
    dog"), `class_prompt` what it is ("a dog"). Raises `ConfigRefused` for no images, or equal prompts.
    """
    mixed_images, captions = mix_with_class(
        family, images, instance_prompt, class_prompt, class_images, config.sampling, config.seed
    )
    return treat(config, family, None, [instance_prompt], mixed_images, captions, None, work, report)


def treat_instance(
    config: TreatmentConfig,
    family: GeneratorFamily,
    detector: Detector,
    prompts: Sequence[str],
    work: Path,
    guard: Guard | None = None,
    report: Report = no_report,
) -> TreatmentResult:
    """Treat the generator's attached instance LoRA, on instance and class prompts.

    Raises `ConfigRefused` without one.
    """
    if not family.adapter.parameters():
        raise ConfigRefused("the generator has no instance LoRA attached; train one first")
    return treat(config, family, detector, prompts, None, [], guard, work, report)


def mix_with_class(
    family: GeneratorFamily,
    images: Sequence[np.ndarray],
    instance_prompt: str,
    class_prompt: str,
    count: int,
    settings: SamplingConfig,
    seed: int,
) -> tuple[list[np.ndarray], list[str]]:
    """Images of instance and class with their captions, equally many of each (prior loss weight 1), so the
    fewer instance images repeat."""
    if not images or instance_prompt == class_prompt:
        raise ConfigRefused(
            f"got {len(images)} instance images and the prompts {instance_prompt!r} and {class_prompt!r}; "
            "DreamBooth needs images and two different prompts"
        )
    if count == 0:
        return list(images), [instance_prompt] * len(images)
    seeds = [seed + index for index in range(count)]
    drawn = generate(family, [class_prompt] * count, seeds, settings)
    repeated = [images[index % len(images)] for index in range(max(count, len(images)))]
    return [*repeated, *drawn], [instance_prompt] * len(repeated) + [class_prompt] * count
