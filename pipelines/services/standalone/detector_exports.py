"""A detector in the formats of other tools, with its card, written to a folder and to the hub."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataengine.errors import ConfigRefused
from dataengine.records import CLINIC, DetectorVersion, Snapshot, component_threshold_of, threshold_of
from pipelines.detectors import training_free, vlm_boxes, yes_no_question
from pipelines.services.standalone.detector_card import DetectorFacts, detector_card
from pipelines.services.standalone.models import detector_files, known_detector
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import NetworkDetector

CARD_FILE = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorExport:
    """The written folder, its files, and the largest difference of its maps from the detector's own."""

    folder: Path
    format: str
    files: tuple[str, ...]
    difference: float
    licence: str
    url: str = ""
    """Of the upload, if one was asked for."""


def export_detector(
    named: str,
    out: Path,
    format: str,
    *,
    workspace: Workspace | None = None,
    half: bool = False,
    calibrated: bool = False,
    push_to: str = "",
) -> DetectorExport:
    """Write the detector of that id or name in the workspace, or that file or folder or `clinic`, to a new
    folder that opens without our code; `push_to` (OWNER/NAME) uploads it, private at first.

    `half` stores float16. `calibrated` divides the logits by the temperature that `--calibrate` fitted.
    Raises `NotFound`, and `ConfigRefused` for what the format cannot hold, `InputRefused` for a folder that
    is not empty or when the hub refuses.
    """
    from dataengine.diagnosis.exports import export_detector as write
    from pipelines.exchange.writers.hub import push_folder
    from pipelines.exchange.writers.snapshot_folder import NewFolder

    with tempfile.TemporaryDirectory() as scratch, NewFolder(out) as fresh:
        facts, detector = _opened(named, Path(scratch), workspace, calibrated)
        difference = write(detector, fresh, format, half, facts.temperature, facts.kept_with_weights())
        card = detector_card(facts, format, half, difference, push_to)
        (fresh / CARD_FILE).write_text(card, encoding="utf-8")
        files = tuple(sorted(file.name for file in fresh.iterdir()))
    folder = Path(out).absolute()
    url = push_folder(folder, push_to, "model") if push_to else ""
    return DetectorExport(
        folder=folder,
        format=format,
        files=files,
        difference=difference,
        licence=facts.version.licence,
        url=url,
    )


def _opened(
    named: str, scratch: Path, workspace: Workspace | None, calibrated: bool
) -> "tuple[DetectorFacts, NetworkDetector]":
    from dataengine.diagnosis.detector import load_detector

    snapshot: Snapshot | None = None
    classes: tuple[str, ...] = ()
    version = known_detector(workspace, named) if workspace else None
    if workspace is None or version is None:
        files = detector_files(named, scratch)
        detector = load_detector(files)
        version = _version_of_files(detector, files)
    else:
        weightless = (yes_no_question.is_question, training_free.regenerates, vlm_boxes.is_boxes)
        if any(is_kind(version) for is_kind in weightless):
            raise ConfigRefused(
                f"{version.name} has no weights of its own that could be exported; export a trained detector"
            )
        detector = load_detector(workspace.checkpoints.fetch(version.checkpoint))
        with workspace.catalog(read_only=True) as catalog:
            classes = catalog.classes.names()
            snapshot = catalog.snapshots.get(version.snapshot_id) if version.snapshot_id else None
    temperature = temperature_of(version) if calibrated else 1.0
    facts = DetectorFacts(
        version=version,
        size=detector.config.size,
        antialias=detector.config.antialias,
        snapshot=snapshot,
        classes=classes,
        temperature=temperature,
        flagged=tempered(threshold_of(version), temperature),
        component=tempered(component_threshold_of(version), temperature),
        metrics=version.metrics,
    )
    return facts, detector


def _version_of_files(detector: "NetworkDetector", files: Path) -> DetectorVersion:
    """What is known of a detector that no workspace has registered."""
    from dataengine.clinic.parts import fingerprint, stamp_of

    config = detector.config
    return DetectorVersion(
        id="",
        name=config.name,
        checkpoint="",
        licence=config.licence,
        metrics={"training": {"pretrained": config.pretrained}} if config.pretrained else {},
        domain=CLINIC if stamp_of(files) == fingerprint("first_doctor") else "",
    )


def temperature_of(version: DetectorVersion) -> float:
    """The temperature that was fitted for a detector. Raises `ConfigRefused` where none was."""
    found = version.metrics.get("calibration", {}).get("temperature")
    if found is None:
        raise ConfigRefused(
            f"{version.name} was never calibrated; fit its temperature first with `clinic detectors "
            f"--calibrate {version.id or 'ID'}`, or export it without --calibrated"
        )
    return float(found)


def tempered(confidence: float, temperature: float) -> float:
    """The confidence in [0, 1] after its logit was divided by the temperature (Guo et al. 2017)."""
    if confidence in (0.0, 1.0):
        return confidence
    return 1 / (1 + math.exp(-math.log(confidence / (1 - confidence)) / temperature))
