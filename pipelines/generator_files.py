"""Where a generator's pipeline lies: in a folder of this machine, in the team's blob store, or on the hub."""

from pathlib import Path
from typing import Any

from dataengine.records import GeneratorVersion
from storage.workspace import Workspace

FILES = "files"
"""The setting of a generator that names its files in the blob store."""


def kept_for_others(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """What a generator's settings say of its files. In a team the folder is copied into the blob store, so
    that workers on other machines can fetch it; one machine needs no copy.
    """
    return {} if workspace.own_database else {FILES: workspace.checkpoints.publish(folder)}


def folder_here(workspace: Workspace, version: GeneratorVersion) -> Path | None:
    """The folder on this machine; None while it is not here."""
    if Path(version.location).is_dir():
        return Path(version.location)
    kept = version.settings.get(FILES)
    return workspace.checkpoints.fetched(kept) if kept else None


def brought_here(workspace: Workspace, version: GeneratorVersion) -> str:
    """A folder of this machine, copied from the blob store where it has to be, or the hub id."""
    here = folder_here(workspace, version)
    if here is None and version.settings.get(FILES):
        here = workspace.checkpoints.fetch(version.settings[FILES])
    return version.location if here is None else str(here)
