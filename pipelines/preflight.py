"""What would happen, before anything is loaded: what a snapshot would hold, whether a run can begin, and what
it would need.

Everything here is torch-free but `estimated`, which the inference service answers on the worker's machine.
"""

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from dataengine.diagnosis.config import DetectorConfig
from dataengine.errors import ClinicError, ConfigRefused, ModelRefused, ServiceAbsent
from dataengine.records import DetectorVersion, GeneratorVersion, SnapshotItem
from pipelines import requests
from pipelines.composition import composition, training_set
from pipelines.config import PublishConfig, TrainingRun, TreatmentRun
from pipelines.context import Context
from pipelines.generator_files import FILES, folder_here, pipeline_of, stored_as
from pipelines.tools import DYNAMICS_FILE, HIGHLIGHTER_FILE, QUESTION_FILE, real_tools
from storage.workspace import Workspace

if TYPE_CHECKING:
    import torch

    from dataengine.treatment.estimate import Estimate

GIGABYTE = 1e9
LITTLE_DISK, NO_DISK = 5e9, 1e9
POSITIVE = 0.5
MARGIN = 1.1
"""An estimate leaves out what the allocator wastes and what a driver takes."""
KNOWN_PIPELINES = frozenset({"FluxPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline"})
WITHOUT_LORA = frozenset({"DDPMPipeline", "DDIMPipeline", "DiTPipeline"})
"""Those that are drawn with and refined, and cannot be treated."""
FIRST_LAYERS = ("encoder.patch_embeddings.0.proj.weight", "encoder.conv1.weight", "conv_stem.weight")
LAST_LAYERS = ("decode_head.classifier.weight", "segmentation_head.0.weight")
MAX_HEADER = 100 << 20

Verdict = Literal["good", "warn", "bad"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at: how it stands, and what to do where it does not."""

    name: str
    verdict: Verdict
    text: str


# ---- what a snapshot would hold ----------------------------------------------------------------------------


def snapshot_preview(workspace: Workspace, publish: PublishConfig) -> dict[str, Any]:
    """What would be published now, by kind and by category, and how it differs from the champion's set.

    The champion's set is that of its own snapshot, or where it has none of the nearest forebear's.
    """
    context = Context(workspace, real_tools())
    items = training_set(context, publish)
    before = champions_set(workspace)
    return {
        "rows": len(items),
        "kinds": composition(items),
        "categories": by_category(items),
        "changes": None if before is None else changes(before, items),
    }


def by_category(items: Iterable[SnapshotItem]) -> list[dict[str, Any]]:
    """Positives and negatives of each category, the largest first."""
    counts: Counter[tuple[str, bool]] = Counter((item.category or "–", is_positive(item)) for item in items)
    rows = [
        {"category": name, "positive": counts[name, True], "negative": counts[name, False]}
        for name in {name for name, _ in counts}
    ]
    return sorted(rows, key=lambda row: (-row["positive"] - row["negative"], row["category"]))


def is_positive(item: SnapshotItem) -> bool:
    """Whether the row shows an artifact, as the sampler that evens out categories sees it."""
    return item.target is not None and (item.kind != "pseudo" or item.max_confidence >= POSITIVE)


def champions_set(workspace: Workspace) -> list[SnapshotItem] | None:
    """The rows that the champion, or the nearest of its forebears with a snapshot, has learned from."""
    with workspace.catalog(read_only=True) as catalog:
        versions = {one.id: one for one in catalog.detectors.list()}
        at = catalog.detectors.champion()
        while at is not None and at.snapshot_id is None:
            at = versions.get(at.parent or "")
        return None if at is None or at.snapshot_id is None else list(catalog.snapshots.items(at.snapshot_id))


def changes(before: Iterable[SnapshotItem], now: Iterable[SnapshotItem]) -> dict[str, int]:
    """How many images are new, gone, or have another target."""
    old, new = ({item.image_id: item.target for item in items} for items in (before, now))
    common = old.keys() & new.keys()
    return {
        "new": len(new.keys() - old.keys()),
        "gone": len(old.keys() - new.keys()),
        "relabelled": sum(old[each] != new[each] for each in common),
        "same": sum(old[each] == new[each] for each in common),
    }


# ---- can it begin ------------------------------------------------------------------------------------------


def training_checks(workspace: Workspace, plan: TrainingRun) -> list[Check]:
    """What a training needs besides labels."""
    with workspace.catalog(read_only=True) as catalog:
        start = catalog.detectors.get(plan.start) if plan.start else catalog.detectors.champion()
        frozen = catalog.benchmarks.newest_frozen()
        watched = catalog.images.count(split="validation")
    if start is None:
        text = "There is no detector to go on from. Register one: clinic detectors --add FOLDER."
        return [worker_check(workspace), Check(name="start", verdict="bad", text=text)]
    found = [
        worker_check(workspace),
        detector_check(workspace, start),
        disk_check(workspace),
        licence_check(start.name, start.licence),
    ]
    if not watched:
        text = "No image is of split “validation”, so nothing will show whether the candidate is better."
        found.append(Check(name="validation", verdict="warn", text=text))
    if frozen is None:
        text = "No benchmark is frozen yet; freeze one on Curate before you promote what comes of this."
        found.append(Check(name="benchmark", verdict="warn", text=text))
    return found


def worker_check(workspace: Workspace) -> Check:
    """Whether somebody is there to do it."""
    alive = requests.workers_alive(workspace)
    if not alive:
        text = "No worker is alive: the job will wait. Start one with “clinic worker”."
        return Check(name="worker", verdict="warn", text=text)
    told = ", ".join(f"{beat.host} ({', '.join(beat.devices) or 'cpu'})" for beat in alive)
    busy = sum(beat.job_id is not None for beat in alive)
    text = f"{told}; {'all busy, the job will wait its turn' if busy == len(alive) else 'ready'}."
    return Check(name="worker", verdict="good", text=text)


def on_a_gpu(workspace: Workspace) -> bool:
    """Whether a worker that is alive has a GPU."""
    alive = requests.workers_alive(workspace)
    return any(device.startswith("cuda") for beat in alive for device in beat.devices)


def disk_check(workspace: Workspace) -> Check:
    """Whether the workspace has room."""
    free = shutil.disk_usage(workspace.path).free
    text = f"{free / GIGABYTE:.0f} GB free in the workspace."
    if free < NO_DISK:
        return Check(name="disk", verdict="bad", text=f"{text} Free some: clinic gc.")
    return Check(name="disk", verdict="warn" if free < LITTLE_DISK else "good", text=text)


def licence_check(name: str, licence: str) -> Check:
    """What the weights may be used for."""
    if not licence:
        text = f"No licence is recorded for {name}; find out before you publish what comes of it."
        return Check(name="licence", verdict="warn", text=text)
    limited = "non-commercial" in licence.lower() or licence == "unstated"
    text = f"{name}: {licence}." + (" What comes of it inherits that." if limited else "")
    return Check(name="licence", verdict="warn" if limited else "good", text=text)


def detector_check(workspace: Workspace, version: DetectorVersion) -> Check:
    """Whether the detector is one that we can use: three channels in, one out."""
    try:
        refuse_other_channels(workspace.checkpoints.fetch(version.checkpoint), version.name)
    except ClinicError as error:
        return Check(name="detector", verdict="bad", text=str(error))
    return Check(name="detector", verdict="good", text=f"{version.name} has its weights.")


def refuse_other_channels(folder: Path, name: str) -> None:
    """Raises `ModelRefused` for a detector folder of another shape than RGB in, one confidence out."""
    for file, what in (
        (DYNAMICS_FILE, "score dynamics"),
        (HIGHLIGHTER_FILE, "a flaw highlighter"),
        (QUESTION_FILE, "a yes/no question"),
    ):
        if (folder / file).is_file():
            raise ModelRefused(
                f"{name} is {what}: it finds artifacts and carries no gradient, so nothing is trained from "
                "it or treated against it; choose a trained detector"
            )
    try:
        told = json.loads((folder / "detector.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{name} has no readable detector.json ({error}); register it anew") from error
    shapes = tensor_shapes(folder / "model.safetensors")
    for key, shape in shapes.items():
        if key.endswith(FIRST_LAYERS) and shape[1] != 3:
            raise ModelRefused(
                f"{name} was trained for images of {shape[1]} channels; RGB has 3, so choose another detector"
            )
        if key.endswith(LAST_LAYERS) and shape[0] != 1:
            raise ModelRefused(
                f"{name} answers with {shape[0]} channels; one confidence per pixel is expected, so choose "
                "another detector"
            )
    if shapes:
        try:
            DetectorConfig.model_validate(told)
        except ValidationError as error:
            raise ModelRefused(
                f"{name}'s detector.json does not describe a detector of ours: {error.errors()[0]['msg']}"
            ) from error


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file, nothing else read; {} without the file.

    Raises `ModelRefused` for a file of another kind.
    """
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, MAX_HEADER)))
        return {name: told["shape"] for name, told in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{file} is no safetensors file, or it is damaged; save it again") from error


# ---- treatment ---------------------------------------------------------------------------------------------


def treatment_checks(
    workspace: Workspace, plan: TreatmentRun, base: GeneratorVersion, detector: DetectorVersion | None
) -> list[Check]:
    """Everything about a treatment that can be said without its networks."""
    found = [worker_check(workspace), weights_check(workspace, base)]
    if detector is None:
        text = "There is no champion to treat against. Register a detector: clinic detectors --add FOLDER."
        found.append(Check(name="detector", verdict="bad", text=text))
    else:
        found.append(detector_check(workspace, detector))
    if (bits := (plan.weights or stored_as(base)).bits) and not on_a_gpu(workspace):
        text = f"Weights of {bits} bits need a GPU, and no worker that is alive has one."
        found.append(Check(name="bits", verdict="warn", text=text))
    found += [disk_check(workspace), licence_check(base.name, base.licence)]
    if plan.tuning.offline is not None:
        found.append(pictures_check(workspace))
    return found


def weights_check(workspace: Workspace, base: GeneratorVersion) -> Check:
    """Whether the generator's files are here, or how they come here."""
    if folder := folder_here(workspace, base):
        try:
            kind = pipeline_class(folder)
        except ModelRefused as error:
            return Check(name="weights", verdict="bad", text=str(error))
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        return Check(name="weights", verdict="good", text=f"{kind}, {size / GIGABYTE:.2f} GB in {folder}.")
    if kept := base.settings.get(FILES):
        size = sum(file.size for file in workspace.checkpoints.files(kept))
        text = f"{size / GIGABYTE:.2f} GB in the blob store; a worker that has no copy yet fetches them."
        return Check(name="weights", verdict="good", text=text)
    if Path(base.location).is_absolute():
        text = (
            f"{base.location} does not exist on this machine; copy the pipeline there, or register another."
        )
        return Check(name="weights", verdict="bad", text=text)
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = base.location.partition("@")
    if isinstance(try_to_load_from_cache(repository, "model_index.json", revision=revision or None), str):
        return Check(name="weights", verdict="good", text=f"{base.location} is in the model cache.")
    text = (
        f"{base.location} is not on this machine: the worker fetches it when it begins. To have it before, "
        f"run “hf download {repository}”."
    )
    return Check(name="weights", verdict="warn", text=text)


def pipeline_class(folder: Path) -> str:
    """The pipeline class that a folder names. Raises `ModelRefused` when it is none that can be treated.

    The worker looks at every file before it loads any (`dataengine.treatment.loading.inspect`).
    """
    kind = pipeline_of(folder)
    if kind in WITHOUT_LORA:
        raise ModelRefused(
            f"{folder} holds a {kind}, which takes no LoRA and cannot be treated; “clinic refine” trains it "
            "whole"
        )
    if kind not in KNOWN_PIPELINES:
        raise ModelRefused(f"{folder} holds a {kind}; known are {', '.join(sorted(KNOWN_PIPELINES))}")
    return kind


def pictures_check(workspace: Workspace) -> Check:
    """Whether there are artifact-free pictures for the offline regularisation."""
    with workspace.catalog(read_only=True) as catalog:
        count = catalog.images.count(source="real", split="train", status="active", has_prompt=True)
    if count:
        text = f"{count} artifact-free pictures with captions for the regularisation."
        return Check(name="pictures", verdict="good", text=text)
    text = (
        "There are no real pictures with captions for the offline regularisation; import some (clinic import "
        "--source real), or switch “offline” off."
    )
    return Check(name="pictures", verdict="bad", text=text)


# ---- what it would need ------------------------------------------------------------------------------------


def needs(workspace: Workspace, kind: str, settings: dict[str, Any]) -> Check:
    """Peak memory against what is free on the worker's device, and the time of a step.

    Asked of the inference service, which plays one step without data; a worker of another machine is not
    asked. A treatment looks again before it loads anything, wherever it runs.
    """
    if kind == "treat" and not generator_is_here(workspace, settings["generator"]):
        text = "No estimate before the weights are on this machine."
        return Check(name="memory", verdict="warn", text=text)
    try:
        told = requests.estimate(workspace, kind, settings)
    except ServiceAbsent:
        text = "No estimate: no worker on this machine answers."
        text += " The run looks again before it loads anything." if kind == "treat" else ""
        return Check(name="memory", verdict="warn", text=text)
    except ClinicError as error:
        return Check(name="memory", verdict="bad", text=str(error))
    return Check(name="memory", verdict=told["verdict"], text=told["text"])


def estimated(context: Context, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A step played on fake tensors, and held against the device's free memory. Needs torch."""
    if kind == "train":
        plan = TrainingRun.model_validate(settings)
        found, steps = training_estimate(context, plan), plan.training.steps

        def advise() -> str:
            return "Halve “batch”, or choose a smaller detector."

    else:
        from dataengine.treatment.estimate import advice

        treatment = TreatmentRun.model_validate(settings)
        found, steps = treatment_estimate(context, treatment), treatment.tuning.updates
        folder = pipeline_folder(context.workspace, treatment.generator)

        def advise() -> str:
            return advice(treatment.tuning, folder, *stored(context, treatment))

    return {**asdict(found), **verdict_on(context.tools.device, found, steps, advise)}


def verdict_on(device: str, found: "Estimate", steps: int, advise: Any) -> dict[str, Any]:
    """Whether it fits, in words."""
    from dataengine.treatment.estimate import measured_rates

    seconds = found.seconds(measured_rates(device))
    free, total = free_memory(device)
    peak = found.peak_bytes
    text = (
        f"About {peak / GIGABYTE:.2f} GB at the peak of {free / GIGABYTE:.1f} GB free "
        f"(of {total / GIGABYTE:.1f}) on {device}; {seconds:.2g} s a step, so {spoken(seconds * steps)} or "
        "more."
    )
    if peak * MARGIN > free:
        return {"verdict": "bad", "text": f"It does not fit. {text} {advise()}"}
    return {"verdict": "good", "text": text, "seconds": seconds}


def training_estimate(context: Context, plan: TrainingRun) -> "Estimate":
    """One update of a detector's training."""
    from dataengine.treatment.estimate import training_step

    with context.workspace.catalog(read_only=True) as catalog:
        start = catalog.detectors.get(plan.start) if plan.start else catalog.detectors.champion()
    if start is None:
        raise ConfigRefused("there is no detector to go on from: register one first")
    folder = context.workspace.checkpoints.fetch(start.checkpoint)
    told = DetectorConfig.model_validate_json((folder / "detector.json").read_text())
    return training_step(told, plan.training.batch)


def treatment_estimate(context: Context, plan: TreatmentRun) -> "Estimate":
    """One update of a treatment, the detector included."""
    from dataengine.treatment.estimate import preflight

    with context.workspace.catalog(read_only=True) as catalog:
        found = catalog.detectors.get(plan.detector) if plan.detector else catalog.detectors.champion()
    if found is None:
        raise ConfigRefused("there is no champion to treat against: register a detector first")
    detector = context.tools.open_detector(context.workspace.checkpoints.fetch(found.checkpoint))
    folder = pipeline_folder(context.workspace, plan.generator)
    estimate = preflight(plan.tuning, folder, None, *stored(context, plan))
    weights = sum(each.numel() * each.element_size() for each in detector.parameters())
    return type(estimate)(**{**asdict(estimate), "weights_bytes": estimate.weights_bytes + weights})


def stored(context: Context, plan: TreatmentRun) -> "tuple[torch.dtype, int | None]":
    """Type and bits of the generator's weights."""
    import torch

    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
    weights = plan.weights or stored_as(base)
    return getattr(torch, weights.precision), weights.bits


def generator_is_here(workspace: Workspace, generator: str) -> bool:
    """Whether the generator's folder lies on this machine."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    return folder_here(workspace, version) is not None


def pipeline_folder(workspace: Workspace, generator: str) -> Path:
    """The generator's folder on this machine. Raises `ConfigRefused` while it is not here."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    if folder := folder_here(workspace, version):
        return folder
    raise ConfigRefused(f"{version.location} is not on this machine yet, so nothing can be estimated")


def free_memory(device: str) -> tuple[int, int]:
    """Free and total bytes: of the accelerator, or of this machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    told = Path("/proc/meminfo")
    if not told.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // 2, total
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return free, total


def spoken(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def require(checks: Iterable[Check]) -> None:
    """Raises `ConfigRefused` with the first check that forbids to begin."""
    for check in checks:
        if check.verdict == "bad":
            raise ConfigRefused(check.text)


def as_json(checks: Sequence[Check]) -> list[dict[str, str]]:
    """For the desks."""
    return [asdict(check) for check in checks]
