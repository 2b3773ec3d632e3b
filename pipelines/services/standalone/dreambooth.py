"""DreamBooth without a round: learn an instance, then treat those layers (DiffDoctor, Fig. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine import durable
from dataengine.quality.intervals import ratio_of_means
from dataengine.records import Report, digest, no_report
from pipelines.config import InstanceRun
from pipelines.services.images.work import run_here
from pipelines.services.standalone.models import find_generator
from pipelines.services.standalone.treatment import png
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.runtime.context import Context

SCENES = (
    *("{}", "a photo of {}", "a close-up of {}", "{} on grass", "{} in a living room"),
    *("{} on a wooden table", "{} next to a window", "{} in the rain"),
)
UNSEEN = (
    *("{} on a beach", "{} in the snow", "{} in front of a city skyline"),
    *("{} on a red carpet", "{} in a forest", "{} at night"),
)
"""Prompts with the instance or its class in them: to treat on, and held out."""
NOT_MEASURED = "likeness not measured: name an image encoder such as DINO or CLIP with --encoder"
SHEET = "likeness.png"
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class InstanceRequest:
    """What a person asks for: a generator, images of an instance, and its words."""

    generator: str
    images: Path
    instance_prompt: str
    class_prompt: str
    class_images: int = 200
    updates: int | None = None
    seed: int = 0
    name: str = ""


def scene_prompts(request: InstanceRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to treat on, of instance and class in turn, and held-out ones, those of the instance first."""
    words = request.instance_prompt, request.class_prompt
    treated = [scene.format(word) for scene in SCENES for word in words]
    unseen = [scene.format(word) for word in words for scene in UNSEEN]
    return tuple(treated), tuple(unseen)


def plan_instance(workspace: Workspace, request: InstanceRequest) -> InstanceRun:
    """The settings of learning the instance, with the generator registered."""
    base = find_generator(workspace, request.generator)
    plan = InstanceRun(
        generator=base.id,
        images=str(request.images),
        instance_prompt=request.instance_prompt,
        class_prompt=request.class_prompt,
        class_images=request.class_images,
        name=request.name,
    )
    changes: dict[str, Any] = {"seed": request.seed}
    if request.updates is not None:
        changes["updates"] = request.updates
    return plan.model_copy(update={"learning": plan.learning.model_copy(update=changes)})


def learn_here(
    workspace: Workspace, plan: InstanceRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """Learn the instance in this process, or resume that; see `learn_job`."""
    from pipelines.jobs.learn_instance import learn_job

    args = {
        "run": f"instance-{digest(plan.model_dump_json())[:12]}",
        "settings": plan.model_dump(mode="json"),
    }
    return run_here(workspace, device, report, lambda context: learn_job(context, args))


def write_instance_lora(workspace: Workspace, generator: str, folder: Path) -> Path:
    """Write the instance's LoRA, as it was learned, into the folder."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    source = workspace.checkpoints.fetch(version.lora or "")
    durable.make_folder(folder)
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        durable.write_bytes(folder / file.name, file.read_bytes())
    return folder


def measure_likeness(
    workspace: Workspace,
    run: str,
    request: InstanceRequest,
    encoder: str,
    out: Path,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Likeness to the instance's images before and after treating, over the held-out pairs that name the
    instance, with its ratio and interval; and a sheet of them. Only a note without an encoder."""
    from pipelines.jobs.learn_instance import read_instance
    from pipelines.jobs.treat_generator import PAIRS
    from pipelines.runtime.images import read_stacked

    rows = [
        row for row in workspace.job_files.get(run, PAIRS) or [] if request.instance_prompt in row["prompt"]
    ]
    if not rows:
        return {"note": "likeness not measured: no held-out pair names the instance"}
    references, _ = read_instance(request.images)
    with workspace.catalog(read_only=True) as catalog:
        known = {
            one.id: one
            for one in catalog.images.get_many([row[at] for row in rows for at in ("before", "after")])
        }
    pixels = {at: read_stacked(workspace, [known[row[at]] for row in rows]) for at in ("before", "after")}
    prompts = [row["prompt"] for row in rows]
    durable.write_bytes(out / SHEET, png(likeness_sheet(references, pixels, prompts)))
    if not encoder:
        return {"note": NOT_MEASURED}

    def score(context: "Context") -> dict[str, Any]:
        from dataengine.quality.likeness import Likeness

        likeness = Likeness(encoder, references, context.models.device)
        before, after = (likeness.score(pixels[at], prompts) for at in ("before", "after"))
        ratio, interval = ratio_of_means(before, after, prompts)
        means = {"before": float(before.mean()), "after": float(after.mean())}
        return {**means, "ratio": ratio, "interval": list(interval), "pairs": len(rows), "encoder": encoder}

    return run_here(workspace, device, report, score)


def likeness_sheet(
    references: Sequence[np.ndarray], pixels: dict[str, np.ndarray], prompts: Sequence[str]
) -> Any:
    """Images of the instance beside those of unseen prompts before and after treating."""
    from pipelines.reports.contact_sheet import Gallery, Tile, render_sheet

    chosen = [index * len(prompts) // min(SHOWN, len(prompts)) for index in range(min(SHOWN, len(prompts)))]
    rows = tuple(
        (
            Tile(image=references[number % len(references)]),
            Tile(image=pixels["before"][index], text=prompts[index]),
            Tile(image=pixels["after"][index], text=prompts[index]),
        )
        for number, index in enumerate(chosen)
    )
    title, lead = "The instance on unseen prompts", "the same seeds before and after treating"
    columns = ("images of the instance", "learned", "treated")
    return render_sheet(Gallery(name="likeness", title=title, lead=lead, columns=columns, rows=rows), 192)
