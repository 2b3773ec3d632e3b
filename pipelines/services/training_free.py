"""Work that needs no labels: score dynamics, yes/no questions, flaw highlighting, refining, inpainting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.curation.config import QuestionConfig
from dataengine.diagnosis.config import BayesDiffConfig, DynamicsConfig, HighlighterConfig
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, Job, Report, digest, no_report, threshold_of
from dataengine.treatment.config import SamplingConfig, WeightsConfig
from pipelines.config import RefiningRun
from pipelines.services.jobs import request_job
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily


@dataclass(frozen=True, kw_only=True)
class DynamicsMaps:
    """Score-dynamics maps of a round's images."""

    detector: DetectorVersion
    """The detector version of these settings."""
    images: int
    suspected: int
    """Images with a map at or above the threshold."""
    left_out: int
    """Images that were not made by a generator of this workspace."""
    chart: Path
    """The share of abnormal places at each step, SVG."""


def predict_dynamics(
    workspace: Workspace,
    round_id: str,
    config: DynamicsConfig,
    batch: int = 16,
    device: str | None = None,
    report: Report = no_report,
) -> DynamicsMaps:
    """Store score-dynamics maps for a round's generated images, each of which is regenerated.

    Raises `ConfigRefused` when the round has no image that can be generated again.
    """
    from pipelines.detectors import dynamics_charts, score_dynamics
    from pipelines.detectors.predict import predict
    from pipelines.runtime.context import real_context

    images, again = _images_to_regenerate(workspace, round_id)
    version = score_dynamics.get_or_register_detector(workspace, config)
    predictions = predict(real_context(workspace, device, report), version.id, again, batch)
    return DynamicsMaps(
        detector=version,
        images=len(again),
        suspected=sum(prediction.max >= threshold_of(version) for prediction in predictions),
        left_out=len(images) - len(again),
        chart=dynamics_charts.chart_abnormal_shares(workspace, version.id),
    )


@dataclass(frozen=True, kw_only=True)
class VarianceMaps:
    """BayesDiff's maps of the images of one generator in a round."""

    detector: DetectorVersion
    """The detector version of these settings and this generator."""
    images: int
    suspected: int
    """Images with a map at or above the threshold."""


def predict_variance(
    workspace: Workspace,
    round_id: str,
    config: BayesDiffConfig,
    batch: int = 16,
    device: str | None = None,
    report: Report = no_report,
) -> list[VarianceMaps]:
    """Store BayesDiff's maps for a round's generated images, each of which is regenerated; by generator.

    Raises `ConfigRefused` when no image can be generated again, without real training images, and for a
    denoiser without a last layer.
    """
    from pipelines.detectors import denoiser_variance, score_dynamics
    from pipelines.detectors.predict import predict
    from pipelines.runtime.context import real_context

    _, again = _images_to_regenerate(workspace, round_id)
    context, found = real_context(workspace, device, report), []
    for generator_id in sorted({str(image.generator_id) for image in again}):
        version = denoiser_variance.get_or_register_detector(context, config, generator_id)
        predictions = predict(context, version.id, score_dynamics.redrawable_images(again, version), batch)
        suspected = sum(prediction.max >= threshold_of(version) for prediction in predictions)
        found.append(VarianceMaps(detector=version, images=len(predictions), suspected=suspected))
    return found


def _images_to_regenerate(workspace: Workspace, round_id: str) -> tuple[list[Image], list[Image]]:
    """A round's images, and those of them that can be generated again. Raises `ConfigRefused` without any."""
    from pipelines.detectors.score_dynamics import redrawable_images

    images = _round_images(workspace, round_id)
    again = redrawable_images(images)
    if not again:
        raise ConfigRefused(
            f"{round_id} has no image made by a generator of this workspace; run `clinic generate`"
        )
    return images, again


def plot_dynamics(
    workspace: Workspace,
    image_id: str,
    point: tuple[int, int],
    config: DynamicsConfig,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Plot an image's score dynamics at (x, y) in pixels beside its median, as an SVG in the workspace.

    Raises `NotFound`, and `ConfigRefused` for an image that cannot be generated again or a point outside.
    """
    from pipelines.detectors.dynamics_charts import chart_dynamics
    from pipelines.runtime.context import real_context

    return chart_dynamics(real_context(workspace, device, report), image_id, point, config)


def train_highlighter(
    workspace: Workspace,
    round_id: str,
    config: HighlighterConfig,
    limit: int = 2000,
    device: str | None = None,
    report: Report = no_report,
) -> DetectorVersion:
    """Train a flaw highlighter on at most `limit` real and `limit` generated images, and register it.

    Raises `ConfigRefused` when there are too few of one size.
    """
    from pipelines.jobs.train_highlighter import register_highlighter
    from pipelines.runtime.context import real_context

    return register_highlighter(real_context(workspace, device, report), round_id, config, limit)


def rank_questions(
    workspace: Workspace,
    round_id: str,
    model: str,
    numbers: Sequence[int] = (),
    limit: int = 200,
    device: str | None = None,
    report: Report = no_report,
) -> list[dict[str, Any]]:
    """Yes/no questions to a VQA model by accuracy on at most `limit` labelled validation images.

    Raises `ConfigRefused` for a model that cannot answer questions, and without flawed and clean images.
    """
    from pipelines.jobs.rank_questions import rank_questions
    from pipelines.runtime.context import real_context

    return rank_questions(real_context(workspace, device, report), round_id, model, numbers, limit)


@dataclass(frozen=True, kw_only=True)
class QuestionVerdicts:
    """A VQA model's answers to one question about a round's images."""

    detector: DetectorVersion
    """The detector version of this model and question."""
    images: int
    suspected: int
    unclear: int


def predict_question(
    workspace: Workspace,
    round_id: str,
    config: QuestionConfig,
    device: str | None = None,
    report: Report = no_report,
) -> QuestionVerdicts:
    """Ask one yes/no question about all of a round's images; the answers are a detector's predictions."""
    from pipelines.detectors.predict import predict
    from pipelines.detectors.yes_no_question import get_or_register_detector
    from pipelines.runtime.context import real_context

    version = get_or_register_detector(workspace, config)
    images = _round_images(workspace, round_id)
    found = predict(real_context(workspace, device, report), version.id, images, batch=16)
    suspected, unclear = (sum(one.max == value for one in found) for value in (1.0, 0.5))
    return QuestionVerdicts(detector=version, images=len(found), suspected=suspected, unclear=unclear)


def _round_images(workspace: Workspace, round_id: str) -> list[Image]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.find(round_id=round_id, status="active")


def refining_run_id(plan: RefiningRun) -> str:
    """The run's id, which follows from its settings, so that the same settings resume it."""
    return f"refine-{digest(plan.model_dump_json())[:12]}"


def request_refining(workspace: Workspace, plan: RefiningRun, actor: str) -> Job:
    """Request a job that refines a generator."""
    args = {"run": refining_run_id(plan), "settings": plan.model_dump(mode="json")}
    return request_job(workspace, "refine", args, actor)


def refine_generator(
    workspace: Workspace, plan: RefiningRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """Refine a generator in this process; called again, it resumes from its last checkpoint."""
    from pipelines.jobs.refine_generator import refine_job
    from pipelines.runtime.context import real_context

    args = {"run": refining_run_id(plan), "settings": plan.model_dump(mode="json")}
    return refine_job(real_context(workspace, device, report), args)


def describe_refining(refined: Mapping[str, Any]) -> list[str]:
    """What a refining run's result says of itself, a sentence each: distances, an early stop, its maps."""
    from pipelines.jobs.refine_generator import describe_distances

    if "after" not in refined:
        return []
    return [text for text in (describe_distances(refined), refined["stopped"], refined["same_place"]) if text]


def inpaint_folder(
    folder: Path,
    out: Path,
    generator: str,
    open_workspace: Callable[[], Workspace],
    sampling: SamplingConfig,
    images: Path | None = None,
    repeats: int = 1,
    seed: int = 0,
    prompt: str = "",
    device: str | None = None,
    report: Report = no_report,
) -> tuple[str, dict[str, Any]]:
    """Inpaint the masked regions of a folder's images into another folder; the generator's name and counts.

    `generator` is a pipeline's folder, or else a registered generator's id, for which alone the workspace is
    opened. Raises `NotFound`, `InputRefused` and `ConfigRefused` before anything is generated.
    """
    from pipelines.exchange.import_options import ImportOptions
    from pipelines.jobs.inpaint_images import InpaintRequest, inpaint_folder

    if repeats < 1:
        raise ConfigRefused(f"--repeats {repeats}: must be 1 or more")
    opener, name, reads = _generator_for_inpainting(generator, open_workspace, device, report)
    request = InpaintRequest(
        generator=name, reads_prompts=reads, sampling=sampling, repeats=repeats, seed=seed, prompt=prompt
    )
    return name, inpaint_folder(opener, ImportOptions(path=folder, images=images), out, request, report)


def _generator_for_inpainting(
    given: str, open_workspace: Callable[[], Workspace], device: str | None, report: Report
) -> "tuple[Callable[[], GeneratorFamily], str, bool]":
    """A function that opens the generator, its name, and whether it reads prompts. Raises `NotFound`."""
    from dataengine.devices import default_device
    from pipelines.generators.draw import open_generator
    from pipelines.generators.files import pipeline_reads_prompts, read_pipeline_class, reads_prompts
    from pipelines.runtime.context import real_context
    from pipelines.runtime.models import real_models

    folder = Path(given).expanduser()
    if folder.is_dir():
        models = real_models(device or default_device())
        opener = partial(models.open_generator, str(folder), None, WeightsConfig())
        return opener, folder.resolve().name, pipeline_reads_prompts(read_pipeline_class(folder))
    workspace = open_workspace()
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(given)
    opener = partial(open_generator, real_context(workspace, device, report), version)
    return opener, version.name, reads_prompts(workspace, version)
