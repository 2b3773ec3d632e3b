"""Detectors that are settings and nothing else: score dynamics, a yes/no question.

Each is registered as a detector version when it is first asked for, so that what it says is kept, shown and
compared under a name of its own. Its checkpoint holds the settings, and stages that need weights know it by
them.
"""

import json
import tempfile
from pathlib import Path

from dataengine.config import Config
from dataengine.records import DetectorVersion, digest
from storage.workspace import Workspace


def settings_id(kind: str, settings: Config) -> str:
    """Id of the detector version that stands for these settings, known before it is registered."""
    return digest(kind, json.dumps(settings.model_dump(mode="json"), sort_keys=True))


def get_or_register_version(
    workspace: Workspace, kind: str, field: str, settings: Config, name: str, licence: str = "none needed"
) -> DetectorVersion:
    """The detector version that stands for these settings. `field` names them in the version's config, and
    the file that holds them in its checkpoint."""
    told, detector_id = settings.model_dump(mode="json"), settings_id(kind, settings)
    with workspace.catalog(read_only=True) as catalog:
        known = [found for found in catalog.detectors.list() if found.id == detector_id]
    if known:
        return known[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{field}.json").write_text(json.dumps(told, indent=2) + "\n")
        checkpoint = workspace.checkpoints.publish(Path(folder))
    version = DetectorVersion(
        id=detector_id,
        name=name,
        checkpoint=checkpoint,
        config={"kind": kind, field: told},
        licence=licence,
    )
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    return version
