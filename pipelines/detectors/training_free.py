"""Training-free detectors: score dynamics, a denoiser's variance, a yes/no question.

Score dynamics and a question consist of settings only, and are registered as a detector version on first use,
so that their predictions are stored, shown and compared like those of any other detector. Their checkpoint
contains the settings instead of weights.
"""

import json
import tempfile
from pathlib import Path

from dataengine.config import Config
from dataengine.records import DetectorVersion, digest
from storage.workspace import Workspace

SCORE_DYNAMICS = "score dynamics"
DENOISER_VARIANCE = "denoiser variance"
REGENERATING = (SCORE_DYNAMICS, DENOISER_VARIANCE)
"""Kinds of detectors that have no network of their own, and see how an image is made again."""


def regenerates(version: DetectorVersion | None) -> bool:
    """Whether the version predicts by making images again, and so has no weights to train or export."""
    return version is not None and version.config.get("kind") in REGENERATING


def settings_id(kind: str, settings: Config, rule: int = 1) -> str:
    """Id of the detector version that stands for these settings, known before it is registered.

    `rule` counts how often the same settings have come to give other maps.
    """
    changed = [str(rule)] if rule > 1 else []
    return digest(kind, json.dumps(settings.model_dump(mode="json"), sort_keys=True), *changed)


def get_or_register_version(
    workspace: Workspace,
    kind: str,
    field: str,
    settings: Config,
    name: str,
    licence: str = "none needed",
    rule: int = 1,
) -> DetectorVersion:
    """The detector version that stands for these settings, registered if it is new. `field` is the key of the
    settings in the version's config, and the name of their JSON file in its checkpoint; for `rule` see
    `settings_id`."""
    values, detector_id = settings.model_dump(mode="json"), settings_id(kind, settings, rule)
    with workspace.catalog(read_only=True) as catalog:
        known = [version for version in catalog.detectors.list() if version.id == detector_id]
    if known:
        return known[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{field}.json").write_text(json.dumps(values, indent=2) + "\n")
        checkpoint = workspace.checkpoints.publish(Path(folder))
    version = DetectorVersion(
        id=detector_id,
        name=name,
        checkpoint=checkpoint,
        config={"kind": kind, field: values} | ({"rule": rule} if rule > 1 else {}),
        licence=licence,
    )
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    return version
