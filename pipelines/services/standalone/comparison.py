"""Compare two generators, or two folders of images, and write the results into an output folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataengine.errors import ConfigRefused, InputRefused
from dataengine.records import CLINIC as CLINIC_DOMAIN
from dataengine.records import DetectorVersion, GeneratorVersion, Report, count_of, digest, no_report
from pipelines.config import ComparisonRun, ComparisonSettings, MeasuresConfig
from pipelines.services.images.work import run_here
from pipelines.services.standalone.models import CLINIC_GENERATORS, find_detector, find_generator
from pipelines.services.standalone.output import begun_output, output_workspace
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.exchange.prompt_sets import PromptRow
    from pipelines.runtime.context import Context

Models = TypeVar("Models")
OFF_ITS_WORLD = (
    "the detector was trained on the embedded clinic's small drawings; on other images its maps say little"
)


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """Two generators, what they draw, and what the images are measured by."""

    before: str
    """What `find_generator` takes."""
    after: str = ""
    """What `find_generator` takes; "" for `before` with `lora`."""
    lora: Path | None = None
    """A LoRA on `after`."""
    detector: str
    prompts: str
    """What `find_prompts` takes."""
    limit: int | None = None
    """Most prompts, evenly spaced."""
    settings: ComparisonSettings


def compare(
    request: ComparisonRequest,
    out: Path,
    *,
    workspace: Path | None = None,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Draw the prompts by both generators with the same seeds, measure the pairs, and write report.json,
    pairs.csv, comparison.html, pairs.jpg and the images below `out`; returns the report.

    Called again, it resumes. Raises `InputRefused` for prompts that cannot be read and an `out` that holds
    anything else, `NotFound` and `ModelRefused` for models.
    """
    from pipelines.jobs.compare_generators import compare_generators
    from pipelines.reports.comparison import Heading, write_comparison

    prompts = chosen_prompts(request)
    settings = settings_of(request, prompts)
    with begun(out, "compare", settings, workspace, partial(compared_models, request)) as (opened, models):
        before, after, detector = models
        run = run_of(request, *models)
        heading = Heading(
            before=before.name,
            after=after.name,
            detector=detector.name,
            prompts=f"{count_of(len(prompts), 'prompt')} from {Path(request.prompts).name}",
            notes=notes_on(detector, request.before in CLINIC_GENERATORS),
        )

        def work(context: "Context") -> dict[str, Any]:
            measured = compare_generators(context, run, {row.text: row.columns for row in prompts})
            return write_comparison(opened, out, heading, measured)

        return run_here(opened, device, report, work)


def judge_folders(
    before: Path,
    after: Path,
    detector: str,
    out: Path,
    *,
    measures: MeasuresConfig = MeasuresConfig(),
    workspace: Path | None = None,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Measure two folders of images, paired by file name, and write the same files as `compare`, but no
    images; returns the report.

    Unpaired files, pairs of two sizes and files that cannot be read are named and left out. Raises
    `InputRefused` where no pair is left, and for an `out` that holds anything else or lies in a folder.
    """
    from pipelines.jobs.compare_files import compare_files, no_pairs, pair_rows
    from pipelines.reports.comparison import Heading, write_comparison

    for folder in (before, after):
        if out.resolve().is_relative_to(folder.resolve()):
            raise InputRefused(f"{out} lies in the compared folder {folder}; name another folder with --out")
    rows, left_out = pair_rows(before, after)
    if not rows:
        raise InputRefused(no_pairs(before, after, left_out))
    settings: dict[str, Any] = {
        "before": str(before.resolve()),
        "after": str(after.resolve()),
        "detector": detector,
    }
    settings |= {"measures": measures.model_dump(mode="json")}
    find = partial(find_detector, named=detector)
    with begun(out, "judge", settings, workspace, find) as (opened, version):

        def work(context: "Context") -> dict[str, Any]:
            found = compare_files(context, before, after, version.id, measures)
            heading = Heading(
                before=before.name,
                after=after.name,
                detector=version.name,
                notes=notes_on(version, False),
                left_out=found.left_out,
            )
            return write_comparison(opened, out, heading, found.measured, found.names)

        return run_here(opened, device, report, work)


def chosen_prompts(request: ComparisonRequest) -> "list[PromptRow]":
    """The prompts, thinned to the limit. Raises `InputRefused`."""
    from pipelines.exchange.prompt_sets import find_prompts, thinned

    if request.limit is not None and request.limit < 1:
        raise InputRefused(f"the limit is {request.limit} prompts; expected 1 or more")
    return thinned(find_prompts(request.prompts), request.limit)


def settings_of(request: ComparisonRequest, prompts: "list[PromptRow]") -> dict[str, Any]:
    """Everything that the results depend on, as JSON. Raises `ConfigRefused` without a second generator."""
    if not request.after and request.lora is None:
        raise ConfigRefused("name a second generator, or a LoRA on the first one with --lora-b FILE")
    return {
        "before": request.before,
        "after": request.after,
        "lora": str(request.lora.resolve()) if request.lora else "",
        "detector": request.detector,
        "prompts": digest(*(row.text for row in prompts)),
        "settings": request.settings.model_dump(mode="json"),
    }


@contextmanager
def begun(
    out: Path,
    command: str,
    settings: dict[str, Any],
    workspace: Path | None,
    find: Callable[[Workspace], Models],
) -> Iterator[tuple[Workspace, Models]]:
    """The workspace of an output folder, and the models that `find` finds in it (`begun_output`)."""
    with begun_output(out, command, settings), output_workspace(out, workspace) as opened:
        models = find(opened)
    with output_workspace(out, workspace) as opened:
        yield opened, models


def compared_models(
    request: ComparisonRequest, workspace: Workspace
) -> tuple[GeneratorVersion, GeneratorVersion, DetectorVersion]:
    """Both generators and the detector, registered on the way. Raises `NotFound`, `ModelRefused`, and
    `ConfigRefused` where both generators are the same."""
    from pipelines.generators.files import weights_of
    from pipelines.generators.register import register_generator

    before = find_generator(workspace, request.before)
    after = find_generator(workspace, request.after) if request.after else before
    if request.lora is not None:
        after = register_generator(
            workspace, after.location, licence=after.licence, weights=weights_of(after), lora=request.lora
        )
    if after.id == before.id:
        raise ConfigRefused(f"both generators are {before.name}; name two different ones")
    return before, after, find_detector(workspace, request.detector)


def run_of(
    request: ComparisonRequest, before: GeneratorVersion, after: GeneratorVersion, detector: DetectorVersion
) -> ComparisonRun:
    """The comparison with its models by their ids."""
    given = {name: getattr(request.settings, name) for name in ComparisonSettings.model_fields}
    return ComparisonRun(before=before.id, after=after.id, detector=detector.id, **given)


def notes_on(detector: DetectorVersion, its_world: bool) -> list[str]:
    """What to know of the detector's figures."""
    return [OFF_ITS_WORLD] if detector.domain == CLINIC_DOMAIN and not its_world else []
