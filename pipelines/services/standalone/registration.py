"""Register detectors and generators from a browser: those that are shipped, and those that admins allowed."""

from typing import Any, Literal

from dataengine.api.models import CLINIC_DETECTOR, CLINIC_GENERATORS
from dataengine.errors import InputRefused
from dataengine.records import Job
from pipelines.services import detectors, generators
from pipelines.services.jobs import request_job
from pipelines.services.standalone.models import detector_files, display_name, find_detector, find_generator
from storage.workspace import Workspace

Kind = Literal["detector", "generator"]
SHIPPED: dict[Kind, tuple[tuple[str, str], ...]] = {
    "detector": ((CLINIC_DETECTOR, "the small detector of the embedded clinic, for its drawings"),),
    "generator": tuple(
        (name, f"a tiny {part.replace('_', ' ')} of the embedded clinic, which draws its drawings")
        for name, part in CLINIC_GENERATORS.items()
    ),
}
"""What the package brings, by the name that commands take, with a description."""


def registrable_models(workspace: Workspace, kind: Kind) -> list[dict[str, str]]:
    """What may be registered: its location, its name, and whether an admin allowed it or it is shipped."""
    with workspace.catalog(read_only=True) as catalog:
        allowed = catalog.endpoints.of_kind(kind)
    return [
        *({"location": one.location, "name": f"{one.name} ({one.location})"} for one in allowed),
        *({"location": location, "name": f"{location}: {what}"} for location, what in SHIPPED[kind]),
    ]


def request_registration(
    workspace: Workspace, kind: Kind, location: str, name: str, licence: str, actor: str
) -> Job:
    """Queue the registration for a worker, which checks the files. Raises `InputRefused` for a location that
    no admin allowed."""
    if all(one["location"] != location for one in registrable_models(workspace, kind)):
        raise InputRefused(
            f"{location!r} is not registered; an admin can register it under /admin, tab Models and "
            f"endpoints, as kind {kind}"
        )
    args = {"kind": kind, "location": location, "name": name, "licence": licence, "actor": actor}
    return request_job(workspace, "register", args, actor)


def register_model(
    workspace: Workspace, kind: Kind, location: str, name: str, licence: str, actor: str
) -> dict[str, Any]:
    """Register it now; its id, its name, and a note where weights of its class may be distilled.

    Raises `ModelRefused` for unsupported files and failed downloads, `NotFound` for a folder that is gone.
    """
    if kind == "detector":
        if location == CLINIC_DETECTOR:
            detector = find_detector(workspace, location)
        else:
            files = detector_files(location, workspace.path / "models")
            named = name.strip() or display_name(location)
            detector = detectors.register_detector(workspace, files, named, licence)
        return {"id": detector.id, "name": detector.name, "note": ""}
    if location in CLINIC_GENERATORS:
        generator = find_generator(workspace, location)
    else:
        generator = generators.register_generator(workspace, location, name, licence, actor=actor)
    return {"id": generator.id, "name": generator.name, "note": generators.distillation_note(generator)}
