"""DreamBooth (Ruiz et al. 2023) in two runs of `tuning.treat`: an instance LoRA, then its treatment.

First the diffusion loss on images of the instance and on generated images of its class (prior preservation);
then the same layers are treated on instance and class prompts (DiffDoctor, "DiffDoctor on DreamBooth").
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dataengine import durable
from dataengine.diagnosis.detector import Detector
from dataengine.errors import ConfigRefused, Paused
from dataengine.images import decode, encode_png
from dataengine.quality.guard import Guard
from dataengine.records import Report, no_report, not_pausing
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
    pausing: Callable[[], bool] = not_pausing,
) -> TreatmentResult:
    """Train an instance LoRA; see `presets.dreambooth` for the settings. Resumes the run in `work`.

    `images`, uint8 HWC of any sizes, show the instance; `instance_prompt` names it by a rare word ("a sks
    dog"), `class_prompt` what it is ("a dog"). Without `class_images` there is no prior preservation. Raises
    `ConfigRefused` for no images, or equal prompts, and `Paused` once `pausing` returns true.
    """
    if not images or instance_prompt == class_prompt:
        raise ConfigRefused(
            f"got {len(images)} instance images and the prompts {instance_prompt!r} and {class_prompt!r}; "
            "DreamBooth needs images and two different prompts"
        )
    drawn = draw_class(
        family, class_prompt, class_images, config.sampling, config.seed, work / "class", report, pausing
    )
    mixed, captions = mix_with_class(images, drawn, instance_prompt, class_prompt)
    settings = config if drawn else config.model_copy(update={"paired": False})
    return treat(
        settings, family, None, [instance_prompt], mixed, captions, None, work, report, pausing=pausing
    )


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


def draw_class(
    family: GeneratorFamily,
    prompt: str,
    count: int,
    settings: SamplingConfig,
    seed: int,
    folder: Path,
    report: Report = no_report,
    pausing: Callable[[], bool] = not_pausing,
) -> list[np.ndarray]:
    """`count` images of the class, uint8 HWC, by a family without the instance LoRA; those that are in
    `folder` already are read from there."""
    files = [folder / f"{index:05}.png" for index in range(count)]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    durable.make_folder(folder)
    for start in range(0, len(missing), settings.batch):
        rows = missing[start : start + settings.batch]
        if pausing():
            raise Paused(f"paused with {start} of {len(missing)} images of the class drawn; resume it")
        report(start, len(missing), "drawing images of the class")
        drawn = generate(family, [prompt] * len(rows), [seed + row for row in rows], settings)
        for row, image in zip(rows, drawn, strict=True):
            durable.write_bytes(files[row], encode_png(image))
    return [decode(file.read_bytes()) for file in files]


def mix_with_class(
    images: Sequence[np.ndarray],
    drawn: Sequence[np.ndarray],
    instance_prompt: str,
    class_prompt: str,
) -> tuple[list[np.ndarray], list[str]]:
    """Images of instance and class with their captions, equally many of each (prior loss weight 1), instances
    first; the fewer ones repeat."""
    if not drawn:
        return list(images), [instance_prompt] * len(images)
    count = max(len(images), len(drawn))
    repeated = [[each[index % len(each)] for index in range(count)] for each in (images, drawn)]
    return [*repeated[0], *repeated[1]], [instance_prompt] * count + [class_prompt] * count
