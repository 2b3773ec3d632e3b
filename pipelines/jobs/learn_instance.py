"""Job: train an instance LoRA (DreamBooth) and register the generator with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ImageRefused, InputRefused
from dataengine.images import decode
from dataengine.records import GeneratorVersion, digest
from pipelines.config import InstanceRun
from pipelines.exchange.readers.folders import read_folder
from pipelines.generators.draw import open_generator
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import naming_out_of_memory
from pipelines.runtime.scratch import discard_scratch, scratch_folder

SMALLER = "images of fewer pixels (learning.sampling.height, learning.sampling.width) need less"


def learn_job(context: Context, args: dict[str, Any]) -> Result:
    """Train or resume the instance LoRA; returns the ids of the base and of the generator with it.

    Raises `InputRefused` for a folder without a readable image, `ConfigRefused` for equal prompts.
    """
    from dataengine.treatment.tuning.dreambooth import learn_instance

    run, plan = args["run"], InstanceRun.model_validate(args["settings"])
    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
        known = {one.id: one for one in catalog.generators.list()}
    made = digest("generator", base.id, run)
    if made in known:
        return {"generator": base.id, "learned": made, "name": known[made].name}
    images, refused = read_instance(Path(plan.images))
    family = open_generator(context, base)
    with (
        scratch_folder(context.workspace, f"{run}-instance") as work,
        naming_out_of_memory("learning the instance", SMALLER),
    ):
        outcome = learn_instance(
            plan.learning,
            family,
            images,
            plan.instance_prompt,
            plan.class_prompt,
            work,
            plan.class_images,
            context.report,
        )
    checkpoint = context.workspace.checkpoints.publish(Path(outcome.lora_folder))
    version = GeneratorVersion(
        id=made,
        name=plan.name or f"{base.name}, {plan.instance_prompt}",
        location=base.location,
        lora=checkpoint,
        parent=base.id,
        settings=base.settings,
        licence=base.licence,
    )
    with context.workspace.catalog() as catalog:
        catalog.generators.add(version)
        catalog.commit()
    discard_scratch(context.workspace, f"{run}-instance")
    losses = [row["loss"] for row in outcome.history]
    return {
        **{"generator": base.id, "learned": made, "name": version.name},
        **{"images": len(images), "refused": refused, "updates": outcome.updates, "loss": losses[-1]},
    }


def read_instance(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """The folder's images, uint8 HWC, and what could not be read. Raises `InputRefused` for none."""
    if not folder.is_dir():
        raise InputRefused(f"{folder} is no folder; give one with images of the instance")
    reading = read_folder(folder)
    refused = [f"{name}: {reason}" for name, reason in reading.refused]
    images = []
    for row in reading.rows:
        try:
            assert row.load
            images.append(decode(row.load()[0]))
        except (InputRefused, ImageRefused) as error:
            refused.append(f"{row.name}: {error}")
    if not images:
        raise InputRefused(f"{folder} holds no image that can be read{_first(refused)}")
    return images, refused


def _first(refused: Sequence[str]) -> str:
    return f": {refused[0]}" if refused else "; give PNG, JPEG or WebP files of the instance"
