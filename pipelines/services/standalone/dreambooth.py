"""DreamBooth without a round: learn an instance, then treat those layers (DiffDoctor, Fig. 9)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine import durable
from dataengine.errors import InputRefused, NotFound
from dataengine.records import GeneratorVersion, Job, Report, digest, no_report
from pipelines.config import PromptChoice
from pipelines.generators.files import DISTILLED
from pipelines.selections.config import ImageQuery, InstanceRun
from pipelines.services import preflight, runs
from pipelines.services.images.work import run_here
from pipelines.services.preflight import Check
from pipelines.services.standalone.models import find_generator
from pipelines.services.standalone.treatment import png
from storage.workspace import Workspace

PRESET = "diffdoctor-without-regularisation"
"""How the layers of an instance are treated, if nothing else is asked for."""
STEPS = 10
"""Of learning and of the treatment, as DiffDoctor draws with FLUX.1-dev after DreamBooth."""
SCENES = (
    *("{}", "a photo of {}", "a close-up of {}", "{} on grass", "{} in a living room"),
    *("{} on a wooden table", "{} next to a window", "{} in the rain"),
)
UNSEEN = (
    *("{} on a beach", "{} in the snow", "{} in front of a city skyline"),
    *("{} on a red carpet", "{} in a forest", "{} at night"),
)
"""Prompts with the instance or its class in them: to treat on, and held out."""
SHEET = "likeness.png"
NOT_HERE = ("worker", "instance")
"""Checks that say nothing to a command: it needs no worker, and its result names the images it left out."""
SHOWN = 8
MOST_IMAGES = 100
"""Images of the catalog that may show one instance; DreamBooth needs three to five."""


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
    encoder: str = ""


def scene_prompts(instance_prompt: str, class_prompt: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to treat on, of instance and class in turn, and held-out ones, those of the instance first."""
    words = instance_prompt, class_prompt
    treated = [scene.format(word) for scene in SCENES for word in words]
    unseen = [scene.format(word) for word in words for scene in UNSEEN]
    return tuple(treated), tuple(unseen)


# ---- learn -------------------------------------------------------------------------------------------------


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
        encoder=request.encoder,
    )
    changes: dict[str, Any] = {"seed": request.seed}
    if request.updates is not None:
        changes["updates"] = request.updates
    return plan.model_copy(update={"learning": plan.learning.model_copy(update=changes)})


def run_id(plan: InstanceRun) -> str:
    """The id of the run in this process: the same settings resume the same run, with any encoder."""
    return f"instance-{digest(plan.model_dump_json(exclude={'encoder'}))[:12]}"


def learn_here(
    workspace: Workspace, plan: InstanceRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """Learn the instance in this process, or resume that; what `learn_job` returns, with `run`."""
    from pipelines.jobs.learn_instance import learn_job

    args = {"run": run_id(plan), "settings": plan.model_dump(mode="json")}
    learned = run_here(workspace, device, report, lambda context: learn_job(context, args))
    return {**learned, "run": args["run"]}


def select_instance(workspace: Workspace, query: ImageQuery) -> tuple[str, ...]:
    """The ids of the selected images, which show an instance. Raises `NotFound` for none, `InputRefused` for
    more than `MOST_IMAGES`."""
    from pipelines.selections.pages import iter_pages, selected

    conditions, count = selected(workspace, query)
    if count > MOST_IMAGES:
        raise InputRefused(
            f"{count} images match; an instance is learned from at most {MOST_IMAGES}, and three to five are "
            "enough. Select fewer, or register a folder that holds them"
        )
    return tuple(image.id for page in iter_pages(workspace, conditions, MOST_IMAGES) for image in page)


def check_instance(workspace: Workspace, plan: InstanceRun) -> list[Check]:
    """The checks of learning an instance that need no models. Raises `NotFound` for its generator."""
    with workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
    found = [preflight.worker_check(workspace), preflight.weights_check(workspace, base)]
    found.append(_images_check(workspace, plan))
    if plan.instance_prompt == plan.class_prompt:
        text = "Instance and class have the same prompt; the instance needs a rare word, such as “sks”."
        found.append(Check(name="prompts", verdict="bad", text=text))
    if base.settings.get(DISTILLED):
        text = (
            f"{base.name} is distilled to few steps, which learning from images may undo; an undistilled "
            "model of the same kind learns an instance better."
        )
        found.append(Check(name="distilled", verdict="warn", text=text))
    return [*found, preflight.disk_check(workspace), preflight.licence_check(base.name, base.licence)]


def _images_check(workspace: Workspace, plan: InstanceRun) -> Check:
    from pipelines.jobs.learn_instance import read_instance

    try:
        images, refused = read_instance(workspace, plan)
    except InputRefused as error:
        return Check(name="instance", verdict="bad", text=f"{error}.")
    text = f"Images of the instance: {len(images)}."
    if refused:
        return Check(name="instance", verdict="warn", text=f"{text} Not readable: {'; '.join(refused[:3])}.")
    return Check(name="instance", verdict="good", text=text)


def require_instance(workspace: Workspace, plan: InstanceRun) -> list[str]:
    """What to know before learning in this process. Raises `ConfigRefused` when a check fails."""
    checks = check_instance(workspace, plan)
    preflight.require(checks)
    return [one.text for one in checks if one.verdict == "warn" and one.name not in NOT_HERE]


def start_instance(workspace: Workspace, plan: InstanceRun, actor: str) -> Job:
    """Queue the learning of an instance for a worker. Raises `ConfigRefused` when a check fails."""
    preflight.require(check_instance(workspace, plan))
    if not plan.name:
        with workspace.catalog(read_only=True) as catalog:
            base = catalog.generators.get(plan.generator)
        plan = plan.model_copy(update={"name": f"{base.name}, {plan.instance_prompt}"[:200]})
    return runs.request_run(workspace, runs.INSTANCE, plan, actor)


def instance_strip(workspace: Workspace, plan: InstanceRun) -> bytes:
    """Images of the instance side by side, as PNG. Raises `InputRefused` where none can be read any more."""
    from pipelines.jobs.learn_instance import read_instance
    from pipelines.reports.contact_sheet import render_strip

    return png(render_strip(read_instance(workspace, plan)[0][:SHOWN]))


def write_instance_lora(workspace: Workspace, generator: str, folder: Path) -> Path:
    """Write the instance's LoRA, as it was learned, into the folder."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    source = workspace.checkpoints.fetch(version.lora or "")
    durable.make_folder(folder)
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        durable.write_bytes(folder / file.name, file.read_bytes())
    return folder


# ---- treat those layers ------------------------------------------------------------------------------------


def with_instance(settings: Mapping[str, Any], run: str) -> dict[str, Any]:
    """The settings of a treatment of the layers that `run` learned: it draws with as many steps, and measures
    the likeness to that instance."""
    tuning = settings["tuning"]
    sampling = {**tuning["sampling"], "steps": STEPS}
    return {**settings, "tuning": {**tuning, "sampling": sampling}, "instance": run}


def offer_treatment(
    workspace: Workspace, settings: Mapping[str, Any], run: str
) -> tuple[dict[str, Any], GeneratorVersion]:
    """A preset's settings for the generator that `run` made, on prompts of its instance and class; and that
    generator. Raises `NotFound` for an unknown run, and before its generator is there."""
    from pipelines.jobs.learn_instance import known_instance

    instance, learned = known_instance(workspace, run)
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(learned)
    prompts, judge = (
        PromptChoice(source="given", texts=texts).model_dump(mode="json")
        for texts in scene_prompts(instance.instance_prompt, instance.class_prompt)
    )
    chosen = {**settings, "generator": learned, "prompts": prompts, "judge": judge}
    return with_instance(chosen, run), version


def likeness_png(workspace: Workspace, instance: str, run: str) -> bytes:
    """Images of the instance that the run `instance` learned, beside held-out ones before and after the
    treatment by `run`, as PNG. Raises `NotFound` where no held-out pair names the instance."""
    from pipelines.jobs.learn_instance import known_instance, read_instance
    from pipelines.jobs.likeness import naming_pairs, read_pairs
    from pipelines.jobs.treat_generator import PAIRS

    plan, _ = known_instance(workspace, instance)
    rows = naming_pairs(workspace.job_files.get(run, PAIRS) or [], plan.instance_prompt)
    if not rows:
        raise NotFound("no held-out pair of this treatment names the instance")
    references, _ = read_instance(workspace, plan)
    sheet = likeness_sheet(references, read_pairs(workspace, rows), [row["prompt"] for row in rows])
    return png(sheet)


def write_likeness(workspace: Workspace, instance: str, run: str, out: Path) -> None:
    """Write `likeness_png` into the folder, where there is one."""
    with suppress(NotFound):
        durable.write_bytes(out / SHEET, likeness_png(workspace, instance, run))


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
