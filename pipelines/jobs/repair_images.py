"""Repair images of the catalog: each result is proposed to people, who accept or reject it.

Input: a selection of images, and registered models. Output: proposed images with their provenance, and
counts. Safe to kill: a note holds the place, and the same repair of the same image is stored once. Cost: as
`pipelines.jobs.repair_files`.
"""

import time
from base64 import b64encode
from dataclasses import asdict
from typing import Any

import numpy as np

from dataengine.errors import Corrupt, ImageRefused, InputRefused, NotFound
from dataengine.images import encode_png, thumbnail
from dataengine.masks import Mask, pack_label_map, unpack_label_map
from dataengine.records import REPAIRED, Image, image_id
from dataengine.treatment.repair.repair import Repair
from pipelines.repair.models import Repairer, RepairModels, choose_models
from pipelines.repair.outcomes import ImageOutcome, count_states, describe_regions, note_on_prompts
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import read_pixels
from pipelines.selections.config import RepairRun
from pipelines.selections.pages import selected
from storage.queries.labels import valid_labels
from storage.queries.repairs import repairable
from storage.queries.selections import Conditions, count_of_selection, page_of_selection
from storage.workspace import Workspace

PLACE = "repair.json"
"""Note of a running job: the last image that is done, and what became of all so far."""
SHOWN = 20
"""Proposed and refused images that the result names."""


def repair_images(context: Context, run: RepairRun, work_id: str) -> Result:
    """Repair the selected images and propose the results; `work_id` names the run that is resumed.

    Raises `NotFound` for an empty selection and unknown models, `ConfigRefused` without a generator.
    """
    models = choose_models(context, run)
    conditions, count = select_images(context.workspace, run)
    files = context.workspace.job_files
    note = files.get(work_id, PLACE) or {
        "after": None,
        "done": 0,
        "counts": {},
        "proposed": [],
        "refused": [],
    }
    repairer = Repairer(context, models, run)
    while image := _next_image(context, conditions, note["after"]):
        context.may_pause()
        place = (note["done"], count)
        context.report(*place, "repairing")
        repairer.open()
        outcome, proposed = _repaired(context, run, models, repairer, image, place)
        fail_point("repair:proposed")
        unprompted = models.reads_prompts and not (image.prompt or run.prompt) and bool(outcome.regions)
        note = _advanced(note, image, outcome, proposed, unprompted)
        files.put(work_id, PLACE, note)
    files.drop(work_id, PLACE)
    return {
        "selected": count,
        **note["counts"],
        "proposed": note["proposed"],
        "refused_images": note["refused"],
        **models.describe(),
        "notes": [*models.notes, *note_on_prompts(note["counts"]["unprompted"])],
    }


def _advanced(
    note: dict[str, Any], image: Image, outcome: ImageOutcome, proposed: str | None, unprompted: bool
) -> dict[str, Any]:
    """The note of a job after one more image."""
    fresh = count_states([outcome]) | {"unprompted": int(unprompted)}
    counts = {name: note["counts"].get(name, 0) + count for name, count in fresh.items()}
    refused = [f"{outcome.file}: {outcome.reason}"] if outcome.state == "refused" else []
    return {
        "after": image.id,
        "done": note["done"] + 1,
        "counts": counts,
        "proposed": [*note["proposed"], *([proposed] if proposed else [])][:SHOWN],
        "refused": [*note["refused"], *refused][:SHOWN],
    }


def repair_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a repair."""
    return repair_images(context, RepairRun.model_validate(args["settings"]), args["run"])


def select_images(workspace: Workspace, run: RepairRun) -> tuple[Conditions, int]:
    """The conditions of the images that a run repairs, and their number. Raises `NotFound` for none."""
    conditions: Conditions = [] if run.ids else selected(workspace, run.images)[0]
    conditions = [*conditions, *repairable(run.ids)]
    with workspace.catalog(read_only=True) as catalog:
        count = count_of_selection(catalog, conditions)
        for image in run.ids if not count else ():
            catalog.images.get(image)
    if not count:
        raise NotFound("none of these images can be repaired: they are refused, or repairs themselves")
    return conditions, count


def _next_image(context: Context, conditions: Conditions, after: str | None) -> Image | None:
    with context.workspace.catalog(read_only=True) as catalog:
        return next(iter(page_of_selection(catalog, conditions, after, 1)), None)


def _repaired(
    context: Context,
    run: RepairRun,
    models: RepairModels,
    repairer: Repairer,
    image: Image,
    place: tuple[int, int],
) -> tuple[ImageOutcome, str | None]:
    """What became of an image, and the id of the proposed one if it was repaired."""
    start, prompt = time.monotonic(), image.prompt or run.prompt

    def report(*_: Any, **__: Any) -> None:
        context.report(*place, "repairing")

    try:
        pixels = read_pixels(context.workspace, image)
        among = _marked(context.workspace, image, run.label_class) if run.label_class else None
        repair = repairer.repair(pixels, prompt, report, among)
    except (NotFound, Corrupt, ImageRefused, InputRefused) as error:
        return ImageOutcome(file=image.id, state="refused", reason=str(error)), None
    outcome = ImageOutcome(
        file=image.id,
        state="repaired" if repair.changed else "unchanged",
        regions=describe_regions(repair),
        seconds=time.monotonic() - start,
    )
    return outcome, _propose(context, run, models, image, repair, outcome, prompt) if repair.changed else None


def _marked(workspace: Workspace, image: Image, label_class: int) -> Mask:
    """Where people's labels mark that class, bool HW."""
    with workspace.catalog(read_only=True) as catalog:
        labels = valid_labels(catalog, [image.id]).get(image.id, [])
    marked = np.zeros((image.height, image.width), bool)
    for label in labels:
        if label.label_map is not None:
            packed = workspace.blobs.get(label.label_map)
            marked |= unpack_label_map(packed, image.height, image.width) == label_class
    return marked


def _propose(
    context: Context,
    run: RepairRun,
    models: RepairModels,
    image: Image,
    repair: Repair,
    outcome: ImageOutcome,
    prompt: str,
) -> str:
    """Store the repaired image: in the original's group and split, so that no training sees one of them and
    is measured on the other; without generator and category, so that it counts in no statistic of theirs."""
    workspace = context.workspace
    taken = [each.region.mask for each in repair.outcomes if each.verdict == "repaired"]
    mask = np.logical_or.reduce(taken).astype(np.uint8)
    sha256, small = workspace.blobs.put_many([encode_png(repair.pixels), thumbnail(repair.pixels)])
    settings = run.model_dump(mode="json", include={"repair", "sampling", "label_class"})
    proposed = Image(
        id=image_id(sha256, None, prompt, None),
        sha256=sha256,
        height=image.height,
        width=image.width,
        prompt=prompt,
        settings={
            REPAIRED: {
                "image": image.id,
                "of": image.sha256,
                "mask": b64encode(pack_label_map(mask)).decode(),
                "regions": [asdict(each) for each in outcome.regions],
                **models.describe(),
                **settings,
            }
        },
        source=REPAIRED,
        origin=f"repair of {image.id}",
        licence=image.licence,
        split=image.split,
        group=image.group,
        thumbnail=small,
        status="proposed",
    )
    with workspace.catalog() as catalog:
        catalog.images.add_many([proposed])
        catalog.commit()
    return proposed.id
