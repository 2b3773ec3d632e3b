"""What a generator's pipeline is, and where it lies: in a folder of this machine, in the team's blob store,
or on the hub."""

import json
from pathlib import Path
from typing import Any

from dataengine.errors import ModelRefused
from dataengine.records import GeneratorVersion
from dataengine.treatment.config import WeightsConfig
from dataengine.treatment.families.catalog import PIPELINES
from storage.workspace import Workspace

FILES = "files"
"""The setting of a generator that names its files in the blob store."""
WEIGHTS = "weights"
"""The setting that says how its weights lie in memory."""
PIPELINE = "pipeline"
"""The setting that names the class of its pipeline."""


def share_folder(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """What a generator's settings say of its files. In a team the folder is copied into the blob store, so
    that workers on other machines can fetch it; one machine needs no copy.
    """
    return {} if workspace.own_database else {FILES: workspace.checkpoints.publish(folder)}


def local_folder(workspace: Workspace, version: GeneratorVersion) -> Path | None:
    """The folder on this machine; None while it is not here."""
    if Path(version.location).is_dir():
        return Path(version.location)
    kept = version.settings.get(FILES)
    return workspace.checkpoints.fetched(kept) if kept else None


def download_generator(workspace: Workspace, version: GeneratorVersion) -> str:
    """A folder of this machine, copied from the blob store where it has to be, or the hub id."""
    here = local_folder(workspace, version)
    if here is None and version.settings.get(FILES):
        here = workspace.checkpoints.fetch(version.settings[FILES])
    return version.location if here is None else str(here)


def weights_of(version: GeneratorVersion) -> WeightsConfig:
    """How the generator's weights lie in memory."""
    return WeightsConfig.model_validate(version.settings.get(WEIGHTS, {}))


def reads_prompts(workspace: Workspace, version: GeneratorVersion) -> bool:
    """Whether sentences say something to the generator; its files tell where its settings do not."""
    kind, folder = version.settings.get(PIPELINE), local_folder(workspace, version)
    if kind is None and folder is not None:
        try:
            kind = read_pipeline_class(folder)
        except ModelRefused:
            return True
    return pipeline_reads_prompts(kind)


def pipeline_reads_prompts(kind: str | None) -> bool:
    """Whether sentences say something to pipelines of that class, as is assumed of an unknown one."""
    facts = PIPELINES.get(kind or "")
    return facts is None or facts.reads_prompts


def read_pipeline_class(folder: Path) -> str:
    """The pipeline class that a folder names. Raises `ModelRefused` when it is no pipeline."""
    try:
        return str(json.loads((folder / "model_index.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(
            f"{folder} is not a pipeline: it has no readable model_index.json. A diffusers pipeline folder "
            "is expected"
        ) from error
