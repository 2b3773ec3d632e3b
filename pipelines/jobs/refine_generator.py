"""Refine: a generator's whole training on real pictures, minding its own flaws, outside a round.

Input: artifact-free real training pictures of the workspace, and a `RefiningRun`: a registered generator
whose training goes on, or a new unconditional UNet. Output: a generator version with a stock pipeline of its
own. Cost: the updates, and in refinement a batch drawn every `cycle` of them. Killed at any moment it goes on
exactly where its last checkpoint stood.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ConfigRefused, Corrupt, NotFound
from dataengine.records import GeneratorVersion, Image, digest
from pipelines.config import RefiningRun
from pipelines.generators.draw import open_generator
from pipelines.generators.files import FILES, PIPELINE, read_pipeline_class
from pipelines.runtime.context import Context, Result
from pipelines.runtime.images import read_pixels
from pipelines.runtime.scratch import discard_scratch, scratch_folder

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily


KIND, PICTURES = "self-refining", "pictures.json"
CHECKED = 2
"""Images that the saved pipeline must draw as the trained one does."""
TOLERANCE = 2
"""Largest difference between them, of 255."""
POINTS = 200


def refine_job(context: Context, args: dict[str, Any]) -> Result:
    """One run from its pictures to a registered generator; a repeated call goes on where it stood."""
    version = refine_generator(context, args["run"], RefiningRun.model_validate(args["settings"]))
    return {"generator": version.id, "name": version.name, **version.settings["refined"]}


def refine_generator(context: Context, run: str, plan: RefiningRun) -> GeneratorVersion:
    """The generator that this run makes; asked again, the one that it made.

    Raises `ConfigRefused` for too few pictures and for generators that are not trained this way, `Corrupt`
    when the saved pipeline draws other images than the trained one.
    """
    from dataengine.treatment.refining.trainer import refine as train

    made = digest("generator", KIND, run)
    if known := _registered(context, made):
        return known
    base = None if not plan.generator else _registered(context, plan.generator)
    if plan.generator and base is None:
        raise NotFound(f"there is no generator {plan.generator!r}; `clinic generators` lists them")
    family = _open_base(context, plan, base)
    chosen = _real_images(context, run, plan.limit)
    pictures, prompts = _read_fitted(context, chosen, family), [image.prompt for image in chosen]
    with scratch_folder(context.workspace, run) as work:
        outcome = train(plan.refining, family, pictures, work, prompts, context.report, context.pausing)
        checkpoint = context.workspace.checkpoints.publish(outcome.folder)
        made_of = context.workspace.checkpoints.fetch(checkpoint)
        _verify(context, family, made_of, prompts)
    version = GeneratorVersion(
        id=made,
        name=plan.name or (f"{base.name}, refined" if base else f"unconditional {family.size[0]}²"),
        location=f"checkpoint {checkpoint}",
        parent=base.id if base else None,
        settings={
            "weights": {"precision": "float32", "bits": None},
            PIPELINE: read_pipeline_class(made_of),
            FILES: checkpoint,
            "refined": {
                "run": run,
                "pictures": len(pictures),
                "maps": outcome.maps,
                "curve": _thinned(outcome.losses),
                "config": plan.model_dump(mode="json"),
            },
        },
        licence=base.licence if base else "",
    )
    with context.workspace.catalog() as catalog:
        catalog.generators.add(version)
        catalog.commit()
    discard_scratch(context.workspace, run)
    return version


def _registered(context: Context, generator_id: str) -> GeneratorVersion | None:
    with context.workspace.catalog(read_only=True) as catalog:
        try:
            return catalog.generators.get(generator_id)
        except NotFound:
            return None


def _open_base(context: Context, plan: RefiningRun, base: GeneratorVersion | None) -> "GeneratorFamily":
    if base is not None:
        if base.lora is not None:
            raise ConfigRefused(
                f"{base.name} carries a LoRA, which cannot be trained through; refine its base, or fuse it"
            )
        return open_generator(context, base)
    from dataengine.treatment.families.unconditional import new_unet_family

    return new_unet_family(plan.network, plan.refining.seed).to(context.models.device)


def _real_images(context: Context, run: str, limit: int) -> list[Image]:
    """Artifact-free real training pictures, chosen once for a run. Raises `ConfigRefused` when there is
    none."""
    files = context.workspace.job_files
    with context.workspace.catalog(read_only=True) as catalog:
        if kept := files.get(run, PICTURES):
            return catalog.images.get_many(kept)
        found = catalog.images.find(source="real", split="train", status="active", limit=limit)
    if not found:
        raise ConfigRefused(
            "this workspace has no real training picture to learn from; `clinic import FOLDER --source real`"
        )
    files.put(run, PICTURES, [image.id for image in found])
    return found


def _read_fitted(context: Context, chosen: Sequence[Image], family: "GeneratorFamily") -> np.ndarray:
    """Their pixels at the generator's size, uint8 NHWC."""
    from dataengine.treatment.sampling.sampler import as_uint8, crop_and_resize

    pictures = np.empty((len(chosen), *family.size, 3), np.uint8)
    for row, image in enumerate(chosen):
        pictures[row] = as_uint8(crop_and_resize(read_pixels(context.workspace, image), family.size))[0]
        context.report(row + 1, len(chosen), "reading pictures")
    return pictures


def _verify(context: Context, trained: "GeneratorFamily", folder: Path, prompts: Sequence[str]) -> None:
    """Hold what the saved pipeline draws against what the trained one draws. Raises `Corrupt`."""
    from dataengine.treatment.config import SamplingConfig
    from dataengine.treatment.families.loading import load_family
    from dataengine.treatment.sampling.sampler import generate

    told, seeds, settings = list(prompts[:CHECKED]), list(range(CHECKED))[: len(prompts)], SamplingConfig()
    drawn = [
        generate(family, told, seeds, settings).astype(int)
        for family in (trained, load_family(folder, device=trained.device))
    ]
    if (difference := int(np.abs(drawn[0] - drawn[1]).max())) > TOLERANCE:
        raise Corrupt(
            f"the saved pipeline draws other images than the trained one (by up to {difference} of 255). "
            "Nothing was registered; run it again"
        )


def _thinned(losses: Sequence[float]) -> list[list[float]]:
    """At most about `POINTS` pairs of update and mean loss since the pair before."""
    step = max(1, len(losses) // POINTS)
    ends = [*range(step, len(losses), step), len(losses)]
    return [[end, round(float(np.mean(losses[max(0, end - step) : end])), 6)] for end in ends]
