"""Where a generator's files are (a local folder, the team's blob store, or the hub), and the class of its
pipeline."""

from pathlib import Path
from typing import Any

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused, NotFound
from dataengine.records import FILES, GeneratorVersion
from dataengine.treatment.config import SamplingConfig, WeightsConfig
from dataengine.treatment.families.catalog import PIPELINES
from pipelines.config import GenerateConfig
from storage.locations import unregistered_folder
from storage.workspace import Workspace

WEIGHTS = "weights"
"""Key of a generator's settings: the precision of its weights in memory."""
PIPELINE = "pipeline"
"""Key of a generator's settings: the class of its pipeline."""
DISTILLED = "distilled"
"""Key of a generator's settings: whether it is distilled to few steps."""
REVISION = "revision"
"""Key of a generator's settings: the commit of the hub that it was registered from."""
SAMPLING = "sampling"
"""Key of a generator's settings: what it is usually drawn with (`UsualSampling`)."""


def share_folder(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Share a generator's folder; returns the settings that name it. In a team the folder is copied to the
    blob
    store, so that workers on other machines can download it; a single machine needs no copy.
    """
    return {} if workspace.own_database else {FILES: workspace.checkpoints.publish(folder)}


def local_folder(workspace: Workspace, version: GeneratorVersion) -> Path | None:
    """The generator's folder on this machine; None if it has not been downloaded."""
    if Path(version.location).is_dir():
        return Path(version.location)
    checkpoint = version.settings.get(FILES)
    return workspace.checkpoints.fetched(checkpoint) if checkpoint else None


def download_generator(workspace: Workspace, version: GeneratorVersion) -> str:
    """The generator's local folder, downloaded from the blob store if necessary, or its hub id.

    Raises `NotFound` for a folder that is not on this machine.
    """
    folder = local_folder(workspace, version)
    if folder is None and version.settings.get(FILES):
        folder = workspace.checkpoints.fetch(version.settings[FILES])
    if folder is None and (problem := absent_folder(version.location)):
        raise NotFound(problem)
    return pinned_location(version) if folder is None else str(folder)


def pinned_location(version: GeneratorVersion) -> str:
    """The generator's hub id at the commit that it was registered from, "owner/name@revision"; those that
    were registered before commits were recorded follow their branch."""
    revision = version.settings.get(REVISION)
    return f"{version.location.partition('@')[0]}@{revision}" if revision else version.location


def cached_folder(version: GeneratorVersion) -> Path | None:
    """The snapshot of a generator from the hub in this machine's model cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = pinned_location(version).partition("@")
    try:
        index = try_to_load_from_cache(repository, "model_index.json", revision=revision or None)
    except ValueError:
        return None
    return Path(index).parent if isinstance(index, str) else None


def absent_folder(location: str) -> str | None:
    """One sentence about a location that names a folder, for one that is not there; None for a hub id."""
    if name := unregistered_folder(location):
        return (
            f"{location} is in the folder {name!r}, which is not registered on this machine; an admin can "
            "register it under /admin, tab Models and endpoints, as kind folder"
        )
    if Path(location).is_absolute():
        return f"{location} does not exist on this machine; copy the pipeline there, or register another."
    return None


def weights_of(version: GeneratorVersion) -> WeightsConfig:
    """Precision of the generator's weights in memory."""
    return WeightsConfig.model_validate(version.settings.get(WEIGHTS, {}))


def sampling_of(version: GeneratorVersion, config: GenerateConfig) -> SamplingConfig:
    """What a round draws the generator with: its usual steps, guidance and size, or those of the recipe."""
    if not config.own_sampling:
        return config.sampling
    return config.sampling.model_copy(update=version.settings.get(SAMPLING, {}))


def reads_prompts(workspace: Workspace, version: GeneratorVersion) -> bool:
    """Whether the generator is conditioned on text; read from its files if its settings do not tell."""
    kind, folder = version.settings.get(PIPELINE), local_folder(workspace, version)
    if kind is None and folder is not None:
        try:
            kind = read_pipeline_class(folder)
        except ModelRefused:
            return True
    return pipeline_reads_prompts(kind)


def drawn_unasked(workspace: Workspace, version: GeneratorVersion) -> bool:
    """Whether a round draws with the generator unless its recipe names others: if it reads prompts, and is
    not one that a treatment made, of which every round would add another."""
    return version.treatment_id is None and reads_prompts(workspace, version)


def pipeline_reads_prompts(kind: str | None) -> bool:
    """Whether pipelines of that class are conditioned on text; assumed of unknown classes."""
    facts = PIPELINES.get(kind or "")
    return facts is None or facts.reads_prompts


def read_pipeline_class(folder: Path) -> str:
    """The pipeline class of a diffusers folder. Raises `ModelRefused` if it is not one."""
    try:
        return str(read_config(folder / "model_index.json")["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(
            f"{folder} is not a pipeline: it has no readable model_index.json. Expected a diffusers pipeline "
            "folder"
        ) from error
