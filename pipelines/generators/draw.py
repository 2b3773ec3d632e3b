"""Generate images from a list of prompts with a registered generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.images import encode_png, thumbnail
from dataengine.records import GeneratorVersion, Image, Split, image_id, prompt_group, split_of
from pipelines.config import GenerateConfig
from pipelines.generators.files import DISTILLED, download_generator, sampling_of, weights_of
from pipelines.generators.guided_sampling import OpenSteering, open_steering
from pipelines.runtime.context import Context
from pipelines.runtime.failpoint import fail_point

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily


@dataclass(frozen=True, kw_only=True)
class GenerationTask:
    """One image to generate."""

    prompt: str
    seed: int
    split: Split
    category: str | None = None
    """The category that the prompt was written for; None if a model assigns it from the image."""


def open_generator(
    context: Context, version: GeneratorVersion, lora: Path | None = None
) -> "GeneratorFamily":
    """Open a registered generator with its own LoRA, or with `lora` instead, at its registered precision.

    Its own LoRA is scaled by the registered strength.
    """
    location = download_generator(context.workspace, version)
    family = context.models.open_generator(
        location, lora or lora_folder(context, version), weights_of(version)
    )
    family.distilled = bool(version.settings.get(DISTILLED, False))
    strength = version.settings.get("strength")
    if strength is not None and lora is None:
        from dataengine.treatment.tuning.sharing import set_strength

        set_strength(family, strength)
    return family


def lora_folder(context: Context, version: GeneratorVersion) -> Path | None:
    """The local folder of a treated generator's LoRA, if it has one."""
    return context.workspace.checkpoints.fetch(version.lora) if version.lora else None


def make_task(prompt: str, seed: int, validation: float, category: str | None = None) -> GenerationTask:
    """A task whose split is determined by its prompt and seed."""
    split = split_of(prompt_group(prompt, seed), validation)
    return GenerationTask(prompt=prompt, seed=seed, split=split, category=category)


def generate_batch(
    context: Context,
    family: Any,
    version: GeneratorVersion,
    tasks: Sequence[GenerationTask],
    config: GenerateConfig,
    purpose: str,
    round_id: str | None = None,
    steering: OpenSteering | None = None,
) -> list[Image]:
    """Generate one batch and store it: blobs first, then the rows that reference them. An image that was
    drawn before, pixel for pixel, keeps its row.

    `steering` is the config's correction and guidance with their models open; opened here if not given.
    """
    prompts, seeds = [task.prompt for task in tasks], [task.seed for task in tasks]
    steering = steering or open_steering(context, config.model_dump(mode="json"), family)
    steppers = steering.steppers(prompts, seeds)
    steps = {} if steppers is None else {"steppers": steppers}
    sampling = sampling_of(version, config)
    pixels = context.models.generate(family, prompts, seeds, sampling, **steps)
    settings = sampling.model_dump(exclude={"batch"}, exclude_none=True) | steering.settings
    sha256s = context.workspace.blobs.put_many([encode_png(image) for image in pixels])
    thumbnails = context.workspace.blobs.put_many([thumbnail(image) for image in pixels])
    images = [
        Image(
            id=image_id(sha256, version.id, task.prompt, task.seed),
            sha256=sha256,
            height=image.shape[0],
            width=image.shape[1],
            prompt=task.prompt,
            category=task.category,
            generator_id=version.id,
            seed=task.seed,
            settings=settings,
            licence=version.licence,
            split=task.split,
            group=prompt_group(task.prompt, task.seed),
            round_id=round_id,
            purpose=purpose,
            thumbnail=small,
        )
        for task, image, sha256, small in zip(tasks, pixels, sha256s, thumbnails, strict=True)
    ]
    fail_point(f"generate:{purpose}")
    with context.workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()
    return images
