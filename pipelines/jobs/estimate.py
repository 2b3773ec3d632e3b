"""Estimate the memory and time of a run, and whether it fits on this machine."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.diagnosis.config import DetectorConfig
from dataengine.errors import ConfigRefused
from pipelines.config import TrainingRun, TreatmentRun
from pipelines.detectors.start import choose_start
from pipelines.generators.files import local_folder, weights_of
from pipelines.runtime.context import Context
from storage.workspace import Workspace

if TYPE_CHECKING:
    import torch

    from dataengine.treatment.tuning.estimate import Estimate


GIGABYTE = 1e9


MARGIN = 1.1
"""Safety factor on estimates, which do not include allocator fragmentation and driver memory."""


def estimate_run(context: Context, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Simulate one step on fake tensors, and compare its peak memory with the device's free memory. Needs
    torch."""
    if kind == "train":
        plan = TrainingRun.model_validate(settings)
        estimate, steps = estimate_training(context, plan), plan.training.steps

        def advise() -> str:
            return "Halve “batch”, or choose a smaller detector."

    else:
        from dataengine.treatment.tuning.estimate import advice

        treatment = TreatmentRun.model_validate(settings)
        estimate, steps = estimate_treatment(context, treatment), treatment.tuning.updates
        folder = pipeline_folder(context.workspace, treatment.generator)

        def advise() -> str:
            return advice(treatment.tuning, folder, *precision_and_bits(context, treatment))

    return {**asdict(estimate), **judge_memory(context.models.device, estimate, steps, advise)}


def judge_memory(device: str, estimate: "Estimate", steps: int, advise: Any) -> dict[str, Any]:
    """Whether the run fits, as a verdict and a sentence."""
    from dataengine.treatment.tuning.estimate import measure_rates

    seconds = estimate.seconds(measure_rates(device))
    free, total = free_memory(device)
    peak = estimate.peak_bytes
    text = (
        f"Peak memory about {peak / GIGABYTE:.2f} GB; {free / GIGABYTE:.1f} GB of {total / GIGABYTE:.1f} GB "
        f"are free on {device}. {seconds:.2g} s per step, "
        f"at least {format_duration(seconds * steps)} in total."
    )
    if peak * MARGIN > free:
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


def estimate_treatment(context: Context, plan: TreatmentRun) -> "Estimate":
    """Estimate one update of a treatment, including the detector."""
    from dataengine.treatment.tuning.estimate import preflight

    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(plan.detector) if plan.detector else catalog.detectors.champion()
    if version is None:
        raise ConfigRefused("there is no champion to treat against; register a detector first")
    detector = context.models.open_detector(context.workspace.checkpoints.fetch(version.checkpoint))
    folder = pipeline_folder(context.workspace, plan.generator)
    estimate = preflight(plan.tuning, folder, None, *precision_and_bits(context, plan))
    weights = sum(each.numel() * each.element_size() for each in detector.parameters())
    return type(estimate)(**{**asdict(estimate), "weights_bytes": estimate.weights_bytes + weights})


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
    if folder := local_folder(workspace, version):
        return folder
    raise ConfigRefused(f"{version.location} is not on this machine yet, so its memory cannot be estimated")


def free_memory(device: str) -> tuple[int, int]:
    """Free and total bytes of the accelerator, or of this machine's memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // 2, total
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return free, total


def format_duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
