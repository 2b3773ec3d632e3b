"""Job: train an instance LoRA (DreamBooth) and register the generator with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ImageRefused, InputRefused, NotFound
from dataengine.images import decode
from dataengine.records import GeneratorVersion, digest
from pipelines.exchange.readers.folders import read_folder
from pipelines.generators.draw import open_generator
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import naming_out_of_memory
from pipelines.runtime.images import read_readable
from pipelines.runtime.scratch import discard_scratch, scratch_folder
from pipelines.selections.config import InstanceRun
from storage.workspace import Workspace

INSTANCE = "instance.json"
"""File of a run: its settings, and the id of the generator that it makes."""
SMALLER = "images of fewer pixels (learning.sampling.height, learning.sampling.width) need less"


def learn_job(context: Context, args: dict[str, Any]) -> Result:
    """Train or resume the instance LoRA; returns the ids of the base and of the generator with it.

    Raises `InputRefused` without a readable image of the instance, `ConfigRefused` for equal prompts.
    """
    from dataengine.treatment.tuning.dreambooth import learn_instance

    run, plan = args["run"], InstanceRun.model_validate(args["settings"])
    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
        known = {one.id: one for one in catalog.generators.list()}
    made = digest("generator", base.id, run)
    note = {"settings": plan.model_dump(mode="json"), "learned": made}
    context.workspace.job_files.put(run, INSTANCE, note)
    if made in known:
        return {"generator": base.id, "learned": made, "name": known[made].name}
    images, refused = read_instance(context.workspace, plan)
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
            context.pausing,
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


def known_instance(workspace: Workspace, run: str) -> tuple[InstanceRun, str]:
    """The settings of a run that began to learn an instance, and the id of the generator that it makes.
    Raises `NotFound`."""
    note = workspace.job_files.get(run, INSTANCE) if run else None
    if note is None:
        raise NotFound(f"no run {run!r} has learned an instance here; it may belong to another workspace")
    return InstanceRun.model_validate(note["settings"]), note["learned"]


def read_instance(workspace: Workspace, plan: InstanceRun) -> tuple[list[np.ndarray], list[str]]:
    """Images of the instance, uint8 HWC, and what could not be read. Raises `InputRefused` for none."""
    if plan.images:
        return read_instance_folder(Path(plan.images))
    with workspace.catalog(read_only=True) as catalog:
        known = catalog.images.get_many(plan.ids)
    found = {image.id for image in known}
    refused = [f"{id}: no longer in the catalog" for id in plan.ids if id not in found]
    _, pixels = read_readable(workspace, known, refused)
    if not pixels:
        raise InputRefused(
            f"none of the {len(plan.ids)} images of the instance can be read any more; select others"
        )
    return pixels, refused


def read_instance_folder(folder: Path) -> tuple[list[np.ndarray], list[str]]:
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
