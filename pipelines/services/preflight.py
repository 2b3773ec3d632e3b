"""Checks before a run begins: worker, disk, licences, models."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dataengine.bounds import read_config
from dataengine.diagnosis.architectures import architecture_named
from dataengine.diagnosis.config import DetectorConfig, DetectorTrainingConfig
from dataengine.diagnosis.encoders import IMAGENET, MIT_NAMES, licence_of, suggested_weights, weight_file
from dataengine.errors import ClinicError, ConfigRefused, ModelRefused, NotFound, ServiceAbsent
from dataengine.licences import UNSTATED, forbidden_by
from dataengine.records import COLLECTED, FILES, DetectorVersion, GeneratorVersion
from dataengine.safetensors_header import tensor_shapes
from dataengine.treatment.families.catalog import PIPELINES
from dataengine.treatment.families.rows import ROWS
from pipelines.config import RoundRecipe, TrainingRun, TreatmentRun
from pipelines.detectors.start import TrainingStart, choose_start
from pipelines.detectors.training_set import require_share
from pipelines.generators.files import (
    DISTILLED,
    absent_folder,
    cached_folder,
    drawn_unasked,
    local_folder,
    pinned_location,
    read_pipeline_class,
    weights_of,
)
from pipelines.generators.preferences import NONE, find_pairs
from pipelines.jobs.estimate import GIGABYTE
from pipelines.runtime.models import (
    BOXES_FILE,
    DYNAMICS_FILE,
    HIGHLIGHTER_FILE,
    QUESTION_FILE,
    VARIANCE_FILE,
)
from pipelines.services import inference, queue
from storage.queries.licences import training_licences
from storage.workspace import Workspace

LITTLE_DISK, NO_DISK = 5e9, 1e9
ANSWERING = {"annotator", "curator", "admin"}
"""The roles that may label."""


Verdict = Literal["good", "warn", "bad"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check, with what to do if it failed."""

    name: str
    verdict: Verdict
    text: str


DISTILLED_CHECK = Check(
    name="real images",
    verdict="warn",
    text="This generator is distilled to few steps, so the offline regularisation on images is left out; "
    "offline.targets=own takes its own trajectories instead, offline_distilled keeps the images.",
)


def training_checks(workspace: Workspace, plan: TrainingRun) -> list[Check]:
    """What a training needs besides labels."""
    with workspace.catalog(read_only=True) as catalog:
        frozen = catalog.benchmarks.newest_frozen()
        champion = catalog.detectors.champion_id()
        validation = catalog.images.count(split="validation", source=COLLECTED)
        licences = training_licences(catalog)
        try:
            start = choose_start(catalog, plan)
        except (ConfigRefused, NotFound) as error:
            text = f"{str(error)[0].upper()}{str(error)[1:]}."
            return [worker_check(workspace), Check(name="start", verdict="bad", text=text)]
    found = [worker_check(workspace), *start_checks(workspace, start, plan.training), disk_check(workspace)]
    found += images_licence_check(licences)
    try:
        require_share(plan.publish, plan.training)
    except ConfigRefused as error:
        found.append(Check(name="injected", verdict="bad", text=str(error)))
    if not validation:
        text = "There are no validation images, so the candidate gets no operating point"
        text += " and cannot be compared with the champion." if champion else "."
        found.append(Check(name="validation", verdict="warn", text=text))
    if frozen is None and champion:
        text = "No benchmark is frozen yet. Freeze one under Curate → Benchmark before promoting."
        found.append(Check(name="benchmark", verdict="warn", text=text))
    return found


def start_checks(workspace: Workspace, start: TrainingStart, training: DetectorTrainingConfig) -> list[Check]:
    """Whether the start is usable, and under what licence."""
    if start.detector is not None:
        return [
            detector_check(workspace, start.detector),
            licence_check(start.detector.name, start.detector.licence),
        ]
    network = training.detector
    if start.encoder_weights:
        licence = licence_of(start.encoder_weights, network)
        return [
            encoder_check(start.encoder_weights, network),
            licence_check(f"The encoder weights {start.encoder_weights}", licence),
        ]
    found = [Check(name="start", verdict="warn", text=f"{RANDOM_START} {unused_rates(training)}".strip())]
    return found + [licence_check("The network", network.licence)] * bool(forbidden_by(network.licence))


RANDOM_START = (
    "Training starts from random weights; below some thousands of labelled images, a pre-trained encoder "
    "finds far more."
)


def unused_rates(training: DetectorTrainingConfig) -> str:
    """What to change where an encoder with random weights would be trained as if it were pre-trained."""
    odd = {"encoder_factor": training.encoder_factor < 1, "encoder_frozen": training.encoder_frozen > 0}
    named = " and ".join(name.replace("_", " ") for name, wrong in odd.items() if wrong)
    return f"Set {named} back to the default: that is for pre-trained encoders." if named else ""


def encoder_check(weights: str, network: DetectorConfig) -> Check:
    """Whether encoder weights by that name can belong to the network; they are read when training begins."""
    if weights == IMAGENET and network.architecture == "segformer":
        text = (
            "There are no ImageNet weights under a free licence for SegFormer; choose one of "
            f"{', '.join(MIT_NAMES)} (non-commercial), or another architecture."
        )
        return Check(name="start", verdict="bad", text=text)
    if weights in MIT_NAMES and network.architecture != "segformer":
        text = f"{weights} is an encoder of SegFormer; this network is {network.architecture}."
        return Check(name="start", verdict="bad", text=text)
    if weights in MIT_NAMES and weights != (fitting := suggested_weights(network)):
        text = f"{weights} is of another size than this SegFormer"
        text += f"; choose {fitting}, or another size." if fitting else ", which is of no published size."
        return Check(name="start", verdict="bad", text=text)
    if weights == IMAGENET or weights in MIT_NAMES:
        text = f"Encoder weights {weights}, from the worker's model cache or else from the hub."
        return Check(name="start", verdict="good", text=text)
    try:
        file = weight_file(Path(weights))
    except ModelRefused as error:
        return Check(name="start", verdict="bad", text=f"{error}.")
    return Check(name="start", verdict="good", text=f"Encoder weights from {file}.")


def images_licence_check(licences: Mapping[str, int]) -> list[Check]:
    """What the licences of the training images forbid; empty where they forbid nothing."""
    limiting = {name: count for name, count in licences.items() if forbidden_by(name)}
    if not limiting:
        return []
    named = ", ".join(f"{count} under {name} (no {forbidden_by(name)})" for name, count in limiting.items())
    text = f"Of the labelled and real training images, {named}. The detector inherits that."
    return [Check(name="licences of images", verdict="warn", text=text)]


def worker_check(workspace: Workspace) -> Check:
    """Whether a worker is running."""
    alive = queue.workers_alive(workspace)
    if not alive:
        text = "No worker is running, so the job will wait. Start one with “clinic worker”."
        return Check(name="worker", verdict="warn", text=text)
    names = ", ".join(f"{beat.host} ({', '.join(beat.devices) or 'cpu'})" for beat in alive)
    busy = sum(beat.job_id is not None for beat in alive)
    text = f"{names}; {'all busy, so the job will be queued' if busy == len(alive) else 'ready'}."
    return Check(name="worker", verdict="good", text=text)


def on_a_gpu(workspace: Workspace) -> bool:
    """Whether a running worker has a GPU."""
    alive = queue.workers_alive(workspace)
    return any(device.startswith("cuda") for beat in alive for device in beat.devices)


def disk_check(workspace: Workspace) -> Check:
    """Whether the workspace has enough disk space."""
    free = shutil.disk_usage(workspace.path).free
    text = f"{free / GIGABYTE:.0f} GB free on the workspace's disk."
    if free < NO_DISK:
        return Check(name="disk", verdict="bad", text=f"{text} Free some space: clinic gc.")
    return Check(name="disk", verdict="warn" if free < LITTLE_DISK else "good", text=text)


def licence_check(name: str, licence: str) -> Check:
    """What the weights may be used for."""
    if not licence:
        text = f"No licence is recorded for {name}; check it before you publish the result."
        return Check(name="licence", verdict="warn", text=text)
    forbidden = forbidden_by(licence)
    limited = bool(forbidden) or licence == UNSTATED
    text = f"{name}: {licence}." + f" It forbids {forbidden}." * bool(forbidden)
    text += " The result inherits it." if limited else ""
    return Check(name="licence", verdict="warn" if limited else "good", text=text)


def detector_check(workspace: Workspace, version: DetectorVersion, gradient: bool = True) -> Check:
    """Whether the detector is usable: three channels in, one out. Without `gradient` a model that answers
    boxes is, too."""
    try:
        folder = workspace.checkpoints.fetch(version.checkpoint)
        if not gradient and (folder / BOXES_FILE).is_file():
            text = f"{version.name} asks a model behind an endpoint about each image, one by one."
            return Check(name="detector", verdict="warn", text=text)
        refuse_other_channels(folder, version.name)
    except NotFound:
        text = f"The weights of {version.name} are gone (clinic gc, or an erasure); choose another detector."
        return Check(name="detector", verdict="bad", text=text)
    except ClinicError as error:
        return Check(name="detector", verdict="bad", text=str(error))
    return Check(name="detector", verdict="good", text=f"Weights of {version.name} found.")


def refuse_other_channels(folder: Path, name: str) -> None:
    """Raises `ModelRefused` for a detector folder with other shapes than RGB in, one confidence out."""
    for file, what in (
        (DYNAMICS_FILE, "score dynamics"),
        (VARIANCE_FILE, "a denoiser's variance"),
        (HIGHLIGHTER_FILE, "a flaw highlighter"),
        (QUESTION_FILE, "a yes/no question"),
        (BOXES_FILE, "a model that answers boxes"),
    ):
        if (folder / file).is_file():
            raise ModelRefused(
                f"{name} is {what}, which has no gradients: it can neither be trained further nor treated "
                "against; choose a trained detector"
            )
    try:
        stored = read_config(folder / "detector.json")
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{name} has no readable detector.json ({error}); register it again") from error
    settings = stored if isinstance(stored, dict) else {}
    default = DetectorConfig.model_fields["architecture"].default
    layers = architecture_named(settings.get("architecture", default))
    shapes = tensor_shapes(folder / "model.safetensors")
    for key, shape in shapes.items():
        if key.endswith(layers.first) and shape[1] != 3:
            raise ModelRefused(
                f"{name} takes images with {shape[1]} channels and RGB has 3; choose another detector"
            )
        if key.endswith(layers.last) and shape[0] != 1:
            raise ModelRefused(
                f"{name} outputs {shape[0]} channels; one confidence per pixel is expected, so choose "
                "another detector"
            )
    if shapes:
        try:
            DetectorConfig.model_validate(stored)
        except ValidationError as error:
            raise ModelRefused(f"{name}'s detector.json is invalid: {error.errors()[0]['msg']}") from error


def treatment_checks(
    workspace: Workspace, plan: TreatmentRun, base: GeneratorVersion, detector: DetectorVersion | None
) -> list[Check]:
    """The checks of a treatment that need no models."""
    found = [worker_check(workspace), weights_check(workspace, base)]
    if detector is None:
        text = "There is no champion to treat against. Register a detector: clinic detectors --add FOLDER."
        found.append(Check(name="detector", verdict="bad", text=text))
    else:
        found.append(detector_check(workspace, detector, plan.tuning.needs_detector_gradient))
    if (bits := (plan.weights or weights_of(base)).bits) and not on_a_gpu(workspace):
        text = f"{bits}-bit weights need a GPU, and no running worker has one."
        found.append(Check(name="bits", verdict="warn", text=text))
    found += [disk_check(workspace), licence_check(base.name, base.licence)]
    if plan.tuning.offline is not None and plan.tuning.offline.targets == "images":
        used = plan.tuning.regularised(distilled=base.settings.get(DISTILLED, False))
        found.append(real_images_check(workspace) if used else DISTILLED_CHECK)
    if plan.tuning.preference is not None:
        found.append(pairs_check(workspace, plan, detector))
    return found


def weights_check(workspace: Workspace, base: GeneratorVersion) -> Check:
    """Whether the generator's files are on this machine, or how they get there."""
    if folder := local_folder(workspace, base):
        try:
            kind = pipeline_class(folder)
        except ModelRefused as error:
            return Check(name="weights", verdict="bad", text=str(error))
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        return Check(name="weights", verdict="good", text=f"{kind}, {size / GIGABYTE:.2f} GB in {folder}.")
    if kept := base.settings.get(FILES):
        size = sum(file.size for file in workspace.checkpoints.files(kept))
        text = f"{size / GIGABYTE:.2f} GB in the blob store; workers without a copy download them."
        return Check(name="weights", verdict="good", text=text)
    if problem := absent_folder(base.location):
        return Check(name="weights", verdict="bad", text=problem)
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = pinned_location(base).partition("@")
    try:
        cached = try_to_load_from_cache(repository, "model_index.json", revision=revision or None)
    except ValueError:
        text = f"{base.location} is neither a folder on this machine nor a repository of the hub."
        return Check(name="weights", verdict="bad", text=text)
    if isinstance(cached, str):
        return Check(name="weights", verdict="good", text=f"{base.location} is in the model cache.")
    text = (
        f"{base.location} is not on this machine; the worker downloads it at the start. To download it now, "
        f"run “hf download {repository}”."
    )
    return Check(name="weights", verdict="warn", text=text)


def pipeline_class(folder: Path) -> str:
    """The pipeline class that a folder names. Raises `ModelRefused` when it cannot be treated.

    The worker checks every file before it loads any (`families.loading.check_pipeline`).
    """
    kind = read_pipeline_class(folder)
    facts = PIPELINES.get(kind)
    if facts is None and kind not in ROWS:
        from dataengine.treatment.families.components import stock_class

        try:
            stock_class(kind)
        except ModelRefused as error:
            raise ModelRefused(f"{folder} contains an unsupported {kind}: {error}") from error
    if facts is not None and not facts.takes_lora:
        raise ModelRefused(
            f"{folder} contains a {kind}, which takes no LoRA and cannot be treated; use “clinic refine” to "
            "train all of its weights"
        )
    return kind


def real_images_check(workspace: Workspace) -> Check:
    """Whether there are artifact-free images for the offline regularisation."""
    with workspace.catalog(read_only=True) as catalog:
        count = catalog.images.count(source="real", split="train", status="active", has_prompt=True)
    if count:
        text = f"{count} artifact-free images with captions for the offline regularisation."
        return Check(name="real images", verdict="good", text=text)
    text = (
        "There are no real images with captions for the offline regularisation; import some, with source "
        "“real”, or switch “offline” off."
    )
    return Check(name="real images", verdict="bad", text=text)


def pairs_check(workspace: Workspace, plan: TreatmentRun, detector: DetectorVersion | None) -> Check:
    """Whether there are pairs with a winner for the localized preference."""
    assert plan.tuning.preference is not None
    shown = plan.tuning.preference, detector.id if detector else None, plan.judge.texts
    with workspace.catalog(read_only=True) as catalog:
        search = find_pairs(catalog, *shown)
    if search.pairs:
        return Check(name="preference pairs", verdict="good", text=f"{search.text}.")
    text = NONE.format(search.text)
    return Check(name="preference pairs", verdict="bad", text=f"{text[0].upper()}{text[1:]}.")


def round_checks(workspace: Workspace, recipe: RoundRecipe) -> list[Check]:
    """What a round needs before it starts, without loading anything."""
    with workspace.catalog(read_only=True) as catalog:
        known = {one.id: one for one in catalog.generators.offered()}
        champion, frozen = catalog.detectors.champion(), catalog.benchmarks.newest_frozen()
        people = [user for user in catalog.users.list() if user.active and ANSWERING & set(user.roles)]
    found = [worker_check(workspace), generators_check(workspace, recipe, known)]
    if champion is None:
        text = "There is no champion to find artifacts with. Train or register a detector first."
        found.append(Check(name="detector", verdict="bad", text=text))
    else:
        found.append(Check(name="detector", verdict="good", text=f"{champion.name} finds the artifacts."))
    if not recipe.generate.categories and not recipe.generate.prompts:
        text = f"The recipe {recipe.name} has neither categories nor prompts to draw."
        found.append(Check(name="prompts", verdict="bad", text=text))
    if "detector" in recipe.parts and champion and frozen is None:
        text = "No benchmark is frozen yet, so the round stops before the promotion. Freeze one under "
        found.append(Check(name="benchmark", verdict="warn", text=f"{text}Curate → Benchmark."))
    if "detector" in recipe.parts and not people:
        text = "There is no annotator's account yet; the round waits until somebody labels its images."
        found.append(Check(name="annotators", verdict="warn", text=text))
    return [*found, disk_check(workspace)]


def generators_check(
    workspace: Workspace, recipe: RoundRecipe, known: Mapping[str, GeneratorVersion]
) -> Check:
    """Whether the round has generators to draw with; one that is not on this machine may be on a worker's."""
    chosen = drawing_generators(workspace, recipe, known)
    if unknown := [id for id in chosen if id not in known]:
        text = f"The recipe names generators that are not registered: {', '.join(unknown)}."
        return Check(name="generators", verdict="bad", text=text)
    if not chosen:
        text = (
            "No generator is chosen." if known else "This recipe needs a generator, and none is registered."
        )
        return Check(name="generators", verdict="bad", text=text)
    problems = [
        found.text for id in chosen if (found := weights_check(workspace, known[id])).verdict != "good"
    ]
    named = ", ".join(known[id].name for id in chosen)
    if problems:
        return Check(name="generators", verdict="warn", text=f"{named}. {' '.join(problems)}")
    return Check(name="generators", verdict="good", text=f"Drawing with {named}.")


def drawing_generators(
    workspace: Workspace, recipe: RoundRecipe, known: Mapping[str, GeneratorVersion]
) -> list[str]:
    """The ids of the generators that a round of the recipe would draw with now."""
    unasked = [id for id, one in known.items() if drawn_unasked(workspace, one)]
    return list(recipe.generate.generators) or unasked


def needs(workspace: Workspace, kind: str, settings: dict[str, Any]) -> Check:
    """Peak memory against the free memory of the worker's device, and the time of a step.

    Estimated by the inference service, which simulates one step without data; workers on other machines are
    not consulted. A treatment checks again before it loads anything, wherever it runs.
    """
    if kind == "treat" and not generator_is_here(workspace, settings["generator"]):
        text = "No estimate until the weights are on this machine."
        return Check(name="memory", verdict="warn", text=text)
    try:
        estimate = inference.estimate(workspace, kind, settings)
    except ServiceAbsent:
        text = "No estimate: no worker on this machine responds."
        text += " The run checks again before it loads anything." if kind == "treat" else ""
        return Check(name="memory", verdict="warn", text=text)
    except ClinicError as error:
        return Check(name="memory", verdict="bad", text=str(error))
    return Check(name="memory", verdict=estimate["verdict"], text=estimate["text"])


def generator_is_here(workspace: Workspace, generator: str) -> bool:
    """Whether the generator's files are on this machine."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    return (local_folder(workspace, version) or cached_folder(version)) is not None


def require(checks: Iterable[Check]) -> None:
    """Raises `ConfigRefused` with the first failed check."""
    for check in checks:
        if check.verdict == "bad":
            raise ConfigRefused(check.text)


def as_json(checks: Sequence[Check]) -> list[dict[str, str]]:
    """The checks for the desks."""
    return [asdict(check) for check in checks]
