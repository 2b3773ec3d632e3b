"""Diagnose image files into an output folder, with or without a workspace."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dataengine.api.models import point_of
from dataengine.errors import ConfigRefused
from dataengine.records import CLINIC as CLINIC_DOMAIN
from dataengine.records import (
    DetectorVersion,
    OperatingPoint,
    Report,
    describe_point,
    digest,
    no_report,
)
from pipelines.services.standalone.models import CLINIC, detector_files, display_name, find_detector
from pipelines.services.standalone.output import HIDDEN, begin_output, output_workspace

if TYPE_CHECKING:
    from pipelines.jobs.diagnose_files import UsedDetector
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import Models
    from storage.workspace import Workspace

DECIDING = (".json", ".safetensors", ".bin", ".pt", ".pth")
"""Suffixes of a detector's files that decide its maps."""
CLINIC_NOTE = (
    "this detector was trained on the embedded clinic's small drawings; on other images its maps say little. "
    "Name a detector for such images with --detector, or train one: clinic train --help."
)


def diagnose_files(
    paths: Sequence[Path],
    out: Path,
    detector: str,
    *,
    workspace: Path | None = None,
    form: Literal["png", "npz"] = "png",
    device: str | None = None,
    report: Report = no_report,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    begun: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write maps, overlays, report, contact sheet and gallery of every image at or below `paths` to `out`.

    `detector` is what `find_detector` takes, or "" for the champion of `workspace`; in a workspace images and
    predictions are recorded as well. `each` gets the report's row of every file as it is done, `begun` a line
    on the detector. Called again, it resumes. Raises `InputRefused` if not one file could be used, for an
    `out` that holds anything else and for unsupported detectors, and `NotFound` for an unknown one.
    """
    from pipelines.jobs import diagnose_files as job
    from pipelines.reports.diagnosis import FileDiagnosis
    from pipelines.reports.inputs import find_inputs

    inputs, refused = find_inputs(paths, out)
    if not inputs:
        raise job.nothing_to_diagnose(
            [FileDiagnosis(file=name, state="refused", reason=reason) for name, reason in refused]
        )
    settings = {"paths": [str(path.absolute()) for path in paths], "detector": detector, "maps": form}

    def begin(used: "UsedDetector") -> job.FileDiagnoser:
        begin_output(out, "diagnose", settings)
        begun(f"{used.name} {used.text}")
        return job.FileDiagnoser(out, out / HIDDEN, used, form)

    def tell(found: FileDiagnosis) -> None:
        each(asdict(found))

    if workspace is None:
        with _opened(detector, device, report) as (models, opened, used):
            diagnoser = begin(used)
            batches = job.iter_files(diagnoser, models, opened, inputs)
            return job.diagnose_files(diagnoser, batches, inputs, refused, report, tell)
    with output_workspace(out, workspace) as recorded:
        from pipelines.services.images.work import run_here

        version = _registered(recorded, detector)
        diagnoser = begin(_as_used(version))
        return run_here(
            recorded,
            device,
            report,
            lambda context: job.diagnose_files(
                diagnoser,
                job.iter_recorded(diagnoser, context, version, inputs),
                inputs,
                refused,
                report,
                tell,
            ),
        )


def diagnose_unrecorded(
    workspace: "Workspace",
    paths: Sequence[Path],
    out: Path,
    detector_id: str = "",
    *,
    device: str | None = None,
    report: Report = no_report,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """As `diagnose_files` by a registered detector, or "" for the champion; the catalog stays as it is.

    Raises `NotFound` for an unknown detector, `ConfigRefused` for one that predicts no maps of files.
    """
    from pipelines.jobs import diagnose_files as job
    from pipelines.reports.inputs import find_inputs
    from pipelines.runtime.open_detector import open_detector
    from pipelines.services.images.work import run_here

    version = _trained(workspace, detector_id)
    inputs, refused = find_inputs(paths, out)
    begin_output(out, "diagnose", {"paths": list(map(str, paths)), "detector": version.id})
    diagnoser = job.FileDiagnoser(out, out / HIDDEN, _as_used(version), "png")

    def work(context: "Context") -> dict[str, Any]:
        batches = job.iter_files(diagnoser, context.models, open_detector(context, version.id), inputs)
        return job.diagnose_files(
            diagnoser, batches, inputs, refused, report, lambda found: each(asdict(found))
        )

    return run_here(workspace, device, report, work)


def _trained(workspace: "Workspace", detector_id: str) -> DetectorVersion:
    """The trained detector of that id, or the champion."""
    from pipelines.detectors.vlm_boxes import is_boxes

    with workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id) if detector_id else catalog.detectors.champion()
    if version is None:
        raise ConfigRefused("this workspace has no champion detector; register or train one, or choose one")
    if "kind" in version.config and not is_boxes(version):
        raise ConfigRefused(
            f"{version.name} has no weights that predict a map of a file; choose a trained one"
        )
    return version


@contextmanager
def _opened(named: str, device: str | None, report: Report) -> "Iterator[tuple[Models, Any, UsedDetector]]":
    """The models on a device that no other process uses meanwhile, the opened detector, and its facts."""
    from dataengine.devices import default_device
    from pipelines.runtime.devices import device_lock
    from pipelines.runtime.models import real_models

    if not named:
        raise ConfigRefused(
            f"name a detector with --detector: a file, a folder, a hub id or {CLINIC!r}; a workspace's "
            "champion is used with --workspace"
        )
    models = real_models(device or default_device())
    with tempfile.TemporaryDirectory() as folder:
        files = detector_files(named, Path(folder))
        with device_lock(models.device, Path(folder), lambda message: report(0, 1, message)):
            opened = models.open_detector(files)
            version = DetectorVersion(
                id="",
                name=display_name(named) or opened.name,
                checkpoint=_fingerprint(files),
                operating_point=point_of(files),
                domain=CLINIC_DOMAIN if named == CLINIC else "",
            )
            yield models, opened, _as_used(version)


def _registered(workspace: "Workspace", named: str) -> DetectorVersion:
    """The named detector, or the champion, which must predict maps."""
    from pipelines.detectors import yes_no_question
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import real_models
    from pipelines.runtime.open_detector import champion_version

    version = (
        find_detector(workspace, named) if named else champion_version(Context(workspace, real_models()))
    )
    if yes_no_question.is_question(version):
        raise ConfigRefused(
            f"{version.name} says whether an image is flawed, not where; choose a detector that predicts maps"
        )
    return version


def _as_used(version: DetectorVersion) -> "UsedDetector":
    from pipelines.jobs.diagnose_files import UsedDetector

    point = version.operating_point or OperatingPoint()
    return UsedDetector(
        name=version.name,
        fingerprint=digest(version.checkpoint, point.flagged, point.component),
        point=point,
        text=describe_point(version)["text"],
        notes=(CLINIC_NOTE,) if version.domain == CLINIC_DOMAIN else (),
    )


def _fingerprint(path: Path) -> str:
    """A digest of the files that decide a detector's maps."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.suffix in DECIDING)
    hashes = []
    for file in files:
        with file.open("rb") as stream:
            hashes.append((file.name, hashlib.file_digest(stream, "sha256").hexdigest()))
    return digest(hashes)
