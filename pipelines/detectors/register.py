"""Register detectors that were trained elsewhere, such as the published DiffDoctor checkpoint."""

import tempfile
from pathlib import Path

from dataengine.api.models import point_of
from dataengine.errors import InputRefused
from dataengine.records import CLINIC, DetectorVersion, digest
from pipelines.detectors import vlm_boxes
from pipelines.runtime.events import announce_promotion
from storage.workspace import Workspace


def shipped_detector(workspace: Workspace) -> DetectorVersion:
    """The detector that is shipped with the embedded clinic, registered unless it is already."""
    from dataengine.clinic.parts import materialise

    files = materialise("first_doctor", workspace.path / "models" / "clinic-detector")
    return register_detector(workspace, files)


def register_detector(
    workspace: Workspace, path: Path, name: str = "", licence: str = "", actor: str = "import"
) -> DetectorVersion:
    """Register a detector folder or file of weights, or put a retired one back on the lists. Raises
    `ModelRefused` for an unsupported format."""
    from dataengine.clinic.parts import fingerprint, stamp_of
    from dataengine.diagnosis.detector import load_detector, save_detector
    from dataengine.model_files import PICKLED, TENSORS_ONLY, check_model_folder

    if not path.exists():
        raise InputRefused(f"{path} does not exist; give a detector folder or a file of weights")
    if (boxes := vlm_boxes.settings_in(path)) is not None:
        return _restored(workspace, vlm_boxes.get_or_register_detector(workspace, boxes, name), actor)
    if path.is_dir():
        check_model_folder(path, pickled=PICKLED - TENSORS_ONLY)
    detector = load_detector(path)
    domain = CLINIC if stamp_of(path) == fingerprint("first_doctor") else ""
    with tempfile.TemporaryDirectory() as folder:
        save_detector(detector, Path(folder))
        checkpoint = workspace.checkpoints.publish(Path(folder))
    version = DetectorVersion(
        id=digest("detector", checkpoint),
        name=name.strip() or detector.name,
        checkpoint=checkpoint,
        metrics={"training": {"pretrained": pretrained}}
        if (pretrained := detector.config.pretrained)
        else {},
        operating_point=point_of(path),
        licence=licence.strip() or detector.config.licence,
        domain=domain,
    )
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.detectors.restore(version.id, actor)
        if catalog.detectors.champion() is None:
            catalog.detectors.promote(version.id, actor, "the first detector of this workspace")
            announce_promotion(catalog, version.id)
        catalog.commit()
    with workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.get(version.id)


def _restored(workspace: Workspace, version: DetectorVersion, actor: str) -> DetectorVersion:
    """The version, back on the lists if it was retired."""
    with workspace.catalog() as catalog:
        catalog.detectors.restore(version.id, actor)
        catalog.commit()
        return catalog.detectors.get(version.id)
