"""Detectors and generators by what people call them: an id, a name, a file, a folder, a hub id."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dataengine.api.models import CLINIC_DETECTOR as CLINIC
from dataengine.api.models import CLINIC_GENERATORS, DIFFDOCTOR
from dataengine.curation.config import BoxesConfig
from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import DetectorVersion, GeneratorVersion
from dataengine.treatment.config import UsualSampling
from pipelines.runtime.models import BOXES_FILE
from storage.workspace import Workspace

Version = TypeVar("Version", DetectorVersion, GeneratorVersion)

CLINIC_STEPS = 5
"""What the generators of the embedded clinic are usually drawn with."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def find_detector(workspace: Workspace, named: str, licence: str = "") -> DetectorVersion:
    """The detector of that id or name, or of that file or folder, which is registered on the way.

    `clinic` is the one that is shipped with the embedded clinic; a hub id may name a commit or branch,
    "owner/name@revision". Raises `NotFound` for what is none of these, `ConfigRefused` for `diffdoctor` with
    how to get it, `ModelRefused` for unsupported files and failed downloads.
    """
    from pipelines.detectors.register import register_detector

    if known := known_detector(workspace, named):
        return known
    files = detector_files(named, workspace.path / "models")
    return register_detector(workspace, files, display_name(named), licence=licence)


def known_detector(workspace: Workspace, named: str) -> DetectorVersion | None:
    """The registered detector of that id or name; None without one. Raises `ConfigRefused` for a name that
    several have."""
    with workspace.catalog(read_only=True) as catalog:
        versions = [one for one in catalog.detectors.list() if one.removed is None]
    known = [one for one in versions if named in (one.id, one.name)]
    return _only(known, named) if known else None


def detector_files(named: str, cache: Path) -> Path:
    """A detector's folder or file by what people call it; see `find_detector`. The shipped one is written
    below `cache`."""
    if named == CLINIC:
        from dataengine.clinic.parts import materialise

        return materialise("first_doctor", cache / "clinic-detector")
    if named == DIFFDOCTOR and not Path(named).exists():
        raise ConfigRefused(
            "the detector of DiffDoctor's authors is not shipped: download its checkpoint from the page that "
            "their repository names, and give the file with --detector FILE (docs/own_images.md)"
        )
    if named.startswith(("http://", "https://")):
        return boxes_folder(BoxesConfig(model=named), cache / "boxes")
    path = Path(named).expanduser()
    if named and path.exists():
        return path
    if HUB_ID.fullmatch(named):
        from pipelines.detectors.hub import download_detector

        return download_detector(named)
    raise NotFound(
        f"there is no detector {named!r}: expected {CLINIC!r}, a detector's folder, a file of weights, a hub "
        "id, the URL of a model that answers boxes, or with --workspace the id or name of a registered one"
    )


def boxes_folder(config: BoxesConfig, folder: Path) -> Path:
    """A detector's folder for a model that answers boxes: its settings alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BOXES_FILE).write_text(config.model_dump_json(indent=2) + "\n")
    return folder


def display_name(named: str) -> str:
    """What a detector of the hub is called, whose files lie below a commit's hash; "" for its own name."""
    on_hub = HUB_ID.fullmatch(named) and not Path(named).expanduser().exists()
    return named.partition("@")[0] if on_hub else ""


def find_generator(workspace: Workspace, named: str, licence: str = "") -> GeneratorVersion:
    """The generator of that id or name, or of that folder, single file or hub id, which is registered on the
    way; `clinic-flux` and `clinic-sd` are shipped with the embedded clinic.

    Raises `ModelRefused` for what cannot be drawn with or fetched, `NotFound` for what is none of these.
    """
    from pipelines.generators.register import register_generator

    with workspace.catalog(read_only=True) as catalog:
        versions = [one for one in catalog.generators.list() if one.removed is None]
    if known := [one for one in versions if named in (one.id, one.name)]:
        return _only(known, named)
    place = str(Path(named).expanduser().resolve())
    if len(known := [one for one in versions if one.location == place and not one.lora]) == 1:
        return known[0]
    if part := CLINIC_GENERATORS.get(named):
        from dataengine.clinic.parts import materialise

        folder = materialise(part, workspace.path / "models" / named)
        # Without a guidance input, as schnell, but trained as it is and not distilled.
        usual = UsualSampling(steps=CLINIC_STEPS)
        return register_generator(workspace, str(folder), named, distilled=False, usual=usual)
    if not (named and Path(named).expanduser().exists()) and not HUB_ID.fullmatch(named):
        raise NotFound(
            f"there is no generator {named!r}: expected a diffusers pipeline's folder, a single .safetensors "
            f"file, a hub id, one of {', '.join(CLINIC_GENERATORS)}, or with --workspace the id or name of a "
            "registered one"
        )
    return register_generator(workspace, named, licence=licence)


def _only(known: Sequence[Version], named: str) -> Version:
    if len(known) > 1:
        ids = ", ".join(one.id for one in known)
        raise ConfigRefused(f"several models are named {named!r}; give an id: {ids}")
    return known[0]
