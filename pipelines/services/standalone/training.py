"""Train a detector on a folder of images and a folder of masks, and write it to an output folder."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dataengine.diagnosis.encoders import IMAGENET, MIT_NAMES, RANDOM
from dataengine.errors import InputRefused, NotFound
from dataengine.records import DetectorVersion, Report, Split, digest, no_report
from pipelines.config import TrainingRun
from pipelines.services.standalone.models import CLINIC, HUB_ID, find_detector
from pipelines.services.standalone.output import HIDDEN, begin_output, output_workspace
from pipelines.services.training import here

if TYPE_CHECKING:
    from pipelines.exchange.importer import ImportResult, Reading, Row
    from pipelines.exchange.metadata import Note
    from storage.workspace import Workspace

PROBLEMS = "problems.csv"
NOT_IMAGES = ("a label without an image", "a label that may belong")
"""How the reasons of masks begin that belong to no image."""
UNEVEN = 0.5
"""Largest share of images held back for validation."""


@dataclass(frozen=True, kw_only=True)
class MaskTraining:
    """Which images and masks a detector is trained on, and how."""

    images: Path
    masks: Path
    out: Path
    plan: TrainingRun
    real: Path | None = None
    """Photographs without artifacts."""
    clean: bool = False
    """Whether an image without a mask is free of artifacts."""
    licence: str = ""
    """Of the images."""
    validation: float = 0.15
    """Share of the images that is held back."""
    workspace: Path | None = None

    def settings(self) -> dict[str, Any]:
        """What the result depends on, as JSON."""
        return {
            "images": str(self.images.absolute()),
            "masks": str(self.masks.absolute()),
            "real": str(self.real.absolute()) if self.real else "",
            "clean": self.clean,
            "licence": self.licence,
            "validation": self.validation,
            "training": self.plan.model_dump(mode="json"),
        }


def train_on_masks(
    request: MaskTraining,
    device: str | None = None,
    report: Report = no_report,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train a detector by `request` and write it with card, figures, curves and a contact sheet.

    `say` is told what was read and what to know before training begins. Called again it resumes; with the
    training done it only writes. Returns the report. Raises `InputRefused` for folders that cannot be used,
    masks that mark nothing and an `out` that holds anything else, `NotFound` for an unknown start, and
    `ConfigRefused` when a check of the training fails.
    """
    from pipelines.runtime.context import real_context

    if not 0 < request.validation <= UNEVEN:
        raise InputRefused(f"--validation {request.validation:g} must lie above 0 and at most {UNEVEN:g}")
    readings = _read(request)
    begin_output(request.out, "train", request.settings())
    state = request.out / HIDDEN / "training.json"
    with output_workspace(request.out, request.workspace) as workspace:
        data = _import(workspace, request, readings, report)
        say(describe_data(data))
        plan = _with_start(workspace, request.plan)
        _require_flaws(workspace, plan, data)
        for check in here.training_warnings(workspace, plan, ("worker",)):
            say(f"note: {check.text}")
        curves = Curves(request.out / HIDDEN / "curves.jsonl", report)
        version = _trained(workspace, state)
        if version is None:
            result = here.train_detector(workspace, plan, device, curves)
            version = here.trained_detector(workspace, result)
            _write_json(state, {"detector": version.id})
        from pipelines.jobs.write_training import write_training

        context = real_context(workspace, device, report)
        return write_training(context, version, plan, request.out, data, curves.series())


def describe_data(data: Mapping[str, Any]) -> str:
    """What was read, in one sentence."""
    parts = [f"{data['masked']} of {data['images']} images have a mask"]
    if data["unmasked"]:
        parts.append(
            f"{data['unmasked']} without one are taken as free of artifacts"
            if data["unmasked_are_clean"]
            else f"{data['unmasked']} without one are left out (--clean takes them as free of artifacts)"
        )
    if data["lost_masks"]:
        parts.append(f"{data['lost_masks']} masks belong to no image")
    if data["real"]:
        parts.append(f"{data['real']} real images without artifacts")
    if data["refused"]:
        parts.append(f"{data['refused']} files refused, never counted as clean; {PROBLEMS} lists all")
    return "; ".join(parts)


@dataclass
class Curves:
    """A `Report` that also keeps the figures of each step, across interruptions, and passes all on."""

    path: Path
    report: Report
    _kept: list[str] = field(default_factory=list)

    def __call__(self, done: int, total: int, message: str = "", **figures: float) -> None:
        if figures:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": done, **figures}) + "\n")
        self.report(done, total, message, **figures)

    def series(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) by figure; of a step that was repeated the later value."""
        values: dict[str, dict[int, float]] = {}
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            with suppress(ValueError, TypeError, AttributeError):  # torn by a power cut
                figures = json.loads(line)
                step = int(figures.pop("step"))
                for name, value in figures.items():
                    if math.isfinite(value):
                        values.setdefault(name, {})[step] = value
        return {name: sorted(points.items()) for name, points in values.items()}


def _read(request: MaskTraining) -> "list[Reading]":
    """The images with their masks, and the real ones. Raises `InputRefused` before anything is written."""
    from pipelines.exchange.import_options import ImportOptions
    from pipelines.exchange.readers.folders import read_folder
    from pipelines.exchange.readers.mask_folders import read_mask_folder

    options = ImportOptions(path=request.masks, images=request.images, clean=request.clean)
    readings = [read_mask_folder(options)]
    if not any(row.answers for row in readings[0].rows):
        raise InputRefused(
            f"no mask in {request.masks} belongs to an image in {request.images}: they are matched by name, "
            "as photo.png and photo.png, photo.jpg and photo.png, or photo.png and photo_mask.png"
        )
    return readings + ([read_folder(request.real)] if request.real else [])


def _import(
    workspace: "Workspace", request: MaskTraining, readings: "Sequence[Reading]", report: Report
) -> dict[str, Any]:
    """Import the images, in splits drawn by the training's seed; what was read, in counts."""
    from pipelines.exchange.importer import Ingest, import_reading

    labelled, real = readings[0], readings[1] if len(readings) > 1 else None
    found = []
    for reading, source in ((labelled, "imported"), (real, "real")):
        if reading is not None:
            rows = list(reading.rows)
            splits = draw_splits([row.name for row in rows], request.validation, request.plan.training.seed)
            placed = replace(reading, rows=[_placed(row, splits[row.name]) for row in rows])
            ingest = Ingest(source=source, licence=request.licence, validation=request.validation)  # type: ignore[arg-type]
            found.append(import_reading(workspace, placed, ingest, report=report))
    _write_problems(request.out, found)
    rows = list(labelled.rows)
    refused = [one for result in found for one in result.refused]
    lost = sum(one.reason.startswith(NOT_IMAGES) for one in refused)
    unmasked_are_clean = request.clean and not lost
    masked = len(rows) - len(_unmasked(request, rows))
    return {
        "images": len(rows),
        "masked": masked,
        "unmasked": len(rows) - masked,
        "unmasked_are_clean": unmasked_are_clean,
        "lost_masks": lost,
        "real": len(list(real.rows)) if real else 0,
        "refused": len(refused) - lost,
        "near_duplicates": sum(len(result.alike) for result in found),
        "remarks": [remark for result in found for remark in result.losses],
        "problems": PROBLEMS if refused else "",
        "refused_files": [f"{one.name}: {one.reason}" for one in refused],
    }
