"""Inject artifacts into a selection of clean images, outside rounds.

Input: the filter of the images, and settings. Output: new images with exact label maps, and counts. Safe to
kill: what was stored stays, and the next run makes the rest. Cost: milliseconds an image for operations on
pixels, a short sampling run for a redraw.
"""

from functools import cache, partial
from typing import Any

from dataengine.errors import ConfigRefused, InputRefused
from dataengine.records import NO_START, GeneratorVersion, Image
from pipelines.generators.draw import open_generator
from pipelines.generators.files import reads_prompts
from pipelines.runtime.context import Context, Result
from pipelines.selections.config import ImageQuery, InjectionRun
from pipelines.selections.diagnose import sum_unreadable
from pipelines.selections.inject import Canvas, inject_artifacts, left_out_images
from pipelines.selections.pages import selected, work_through
from storage.queries.selections import Conditions, count_of_selection, known_clean
from storage.workspace import Workspace

PAGE = 64
"""Clean images of one page."""


def inject_images(context: Context, run: InjectionRun) -> Result:
    """Inject artifacts into the selected clean images of the training split, or of the split that it names.

    The result counts the images selected, the clean ones among them, the images made now, by kind, those
    `known` before, and those left out. Raises `NotFound` for an empty selection and an unknown generator,
    `InputRefused` when none of the images is clean or takes an artifact.
    """
    canvas = (
        None
        if (version := redrawing_generator(context.workspace, run)) is None
        else _canvas(context, version)
    )
    conditions, count, clean = clean_selection(context.workspace, run.images)

    def work(part: Context, page: list[Image]) -> Result:
        return inject_artifacts(part, page, run, canvas)

    answers = work_through(context, conditions, PAGE, work)
    images, known = (sum(answer[name] for answer in answers) for name in ("images", "known"))
    reasons = [reason for answer in answers for reason in answer.get("left_out_images", ())]
    unreadable = sum_unreadable(answers)
    if not images + known:
        first = [*reasons, *unreadable.get("unreadable_images", ())][0]
        raise InputRefused(f"no artifact could be injected into any of {clean} images; the first is {first}")
    kinds = sorted({kind for answer in answers for kind in answer["kinds"]})
    return {
        "selected": count,
        "clean": clean,
        "images": images,
        "known": known,
        **({"note": NO_START} if canvas is None else {}),
        "kinds": {kind: sum(answer["kinds"].get(kind, 0) for answer in answers) for kind in kinds},
        **left_out_images(reasons),
        **({"left_out": left_out} if (left_out := sum(a.get("left_out", 0) for a in answers)) else {}),
        **unreadable,
    }


def clean_selection(workspace: Workspace, query: ImageQuery) -> tuple[Conditions, int, int]:
    """The conditions of the selected images that are known to be clean, the number of selected images, and of
    clean ones; of the training split unless the query names another.

    Raises `NotFound` for an empty selection, `InputRefused` when none is clean.
    """
    query = query if query.split else query.model_copy(update={"split": "train"})
    chosen, count = selected(workspace, query)
    conditions = [*chosen, *known_clean()]
    with workspace.catalog(read_only=True) as catalog:
        clean = count_of_selection(catalog, conditions)
    if not clean:
        raise InputRefused(
            f"none of the {count} selected images is known to be clean: artifacts are injected only into "
            "real images and into those with a label “clean”, because other flaws would stay without a label"
        )
    return conditions, count, clean


def redrawing_generator(workspace: Workspace, run: InjectionRun) -> GeneratorVersion | None:
    """The generator of source "redraw", None for "operations". Raises `ConfigRefused` where one is missing or
    given in vain, `NotFound` for an unknown one."""
    if (run.source == "redraw") != (run.generator is not None):
        raise ConfigRefused(
            "source “redraw” needs the id of the generator that redraws; `clinic generators` lists them"
            if run.source == "redraw"
            else "operations on pixels need no generator; leave it out, or choose source “redraw”"
        )
    if run.generator is None:
        return None
    with workspace.catalog(read_only=True) as catalog:
        return catalog.generators.get(run.generator)


def _canvas(context: Context, version: GeneratorVersion) -> Canvas:
    """The generator, opened once, when it is first needed."""
    return Canvas(
        open=cache(partial(open_generator, context, version)),
        reads_prompts=reads_prompts(context.workspace, version),
        name=version.name,
    )


def inject_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume an injection."""
    return inject_images(context, InjectionRun.model_validate(args["settings"]))
