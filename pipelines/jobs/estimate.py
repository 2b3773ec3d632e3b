"""Estimate the memory and time of a run, and whether it fits on this machine."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.diagnosis.config import DetectorConfig
from dataengine.errors import ConfigRefused
from dataengine.records.counts import format_duration
from dataengine.treatment.tuning.memory import free_memory
from pipelines.config import TrainingRun, TreatmentRun
from pipelines.detectors.start import choose_start
from pipelines.generators.files import cached_folder, local_folder, weights_of
from pipelines.runtime.context import Context
from storage.workspace import Workspace

if TYPE_CHECKING:
    import torch

    from dataengine.treatment.tuning.estimate import Estimate
    from dataengine.treatment.tuning.moments import Peak, RunEstimate


GIGABYTE = 1e9


WRITTEN = "a photograph of two people who hold up a sign in front of a shop window, in the evening light"
"""As long as the prompts that are written for categories."""
MARGIN = 1.1
"""Safety factor on estimates, which do not include allocator fragmentation and driver memory."""


def estimate_run(
    context: Context, kind: str, settings: dict[str, Any], untrained: DetectorConfig | None = None
) -> dict[str, Any]:
    """Simulate one step on fake tensors, and compare its peak memory with the device's free memory. Needs
    torch. `untrained` stands in for the detector of a treatment that is still to be trained."""
    from dataengine.treatment.tuning.moments import Peak, advice

    device = context.models.device
    if kind == "train":
        plan = TrainingRun.model_validate(settings)
        estimate, steps = estimate_training(context, plan), plan.training.steps

        def advise() -> str:
            return "Halve “batch”, or choose a smaller detector."

        peaks: tuple[Peak, Peak | None] = (Peak(estimate.peak_bytes), None)
        figures = asdict(estimate)
    else:
        treatment = TreatmentRun.model_validate(settings)
        run, steps = estimate_treatment(context, treatment, untrained), treatment.tuning.updates
        folder = pipeline_folder(context.workspace, treatment.generator)

        def advise() -> str:
            return advice(treatment.tuning, folder, *precision_and_bits(context, treatment))

        estimate, peaks, figures = run.update, run.peaks(device == "cpu"), run.as_json()
    return {**figures, **judge_memory(device, estimate, steps, advise, peaks)}


def judge_memory(
    device: str,
    estimate: "Estimate",
    steps: int,
    advise: Callable[[], str],
    peaks: "tuple[Peak, Peak | None]",
) -> dict[str, Any]:
    """Whether the run fits, as a verdict and a sentence. `peaks` are those on the device and, unless they are
    the same, in host memory."""
    from dataengine.treatment.tuning.estimate import measure_rates

    seconds = estimate.seconds(measure_rates(device))
    short, said = [], []
    for peak, place in zip(peaks, (device, "cpu"), strict=True):
        if peak is None:
            continue
        free, total = free_memory(place)
        said.append(f"{peak.text}; {free / GIGABYTE:.1f} GB of {total / GIGABYTE:.1f} GB are free on {place}")
        short.append(peak.size * MARGIN > free)
    text = (
        f"Peak memory about {'. Host memory about '.join(said)}. {seconds:.2g} s per step, "
        f"at least {format_duration(seconds * steps)} in total."
    )
    if any(short):
        return {"verdict": "bad", "text": f"Not enough memory. {text} {advise()}"}
    return {"verdict": "good", "text": text, "seconds": seconds}


def estimate_training(context: Context, plan: TrainingRun) -> "Estimate":
    """Estimate one update of a detector's training."""
    from dataengine.treatment.tuning.estimate import training_step

    with context.workspace.catalog(read_only=True) as catalog:
        start = choose_start(catalog, plan).detector
    config = plan.training.detector
    if start is not None:
        folder = context.workspace.checkpoints.fetch(start.checkpoint)
        config = DetectorConfig.model_validate_json((folder / "detector.json").read_text())
    return training_step(config, plan.training.batch)


def estimate_treatment(
    context: Context, plan: TreatmentRun, untrained: DetectorConfig | None = None
) -> "RunEstimate":
    """Estimate every moment of a treatment, with its detector, or with one of these settings."""
    from dataengine.diagnosis.detector import NetworkDetector, antialiased
    from dataengine.treatment.tuning.moments import estimate_moments

    detector = _detector_of(context, plan) if untrained is None else NetworkDetector.fresh(untrained)
    return estimate_moments(
        plan.tuning,
        pipeline_folder(context.workspace, plan.generator),
        antialiased(detector.to("cpu")),
        *precision_and_bits(context, plan),
        on_cpu=context.models.device == "cpu",
        prompt=max(plan.prompts.texts, key=len, default=WRITTEN),
    )


def _detector_of(context: Context, plan: TreatmentRun) -> Any:
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(plan.detector) if plan.detector else catalog.detectors.champion()
    if version is None:
        raise ConfigRefused("there is no champion to treat against; register a detector first")
    return context.models.open_detector(context.workspace.checkpoints.fetch(version.checkpoint))


def precision_and_bits(context: Context, plan: TreatmentRun) -> "tuple[torch.dtype, int | None]":
    """Dtype and bits of the generator's weights."""
    import torch

    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
    weights = plan.weights or weights_of(base)
    return getattr(torch, weights.precision), weights.bits


def pipeline_folder(workspace: Workspace, generator: str) -> Path:
    """The generator's folder on this machine. Raises `ConfigRefused` if it has not been downloaded."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    if folder := local_folder(workspace, version) or cached_folder(version):
        return folder
    raise ConfigRefused(f"{version.location} is not on this machine yet, so its memory cannot be estimated")
