"""Train a detector on a folder of images and a folder of masks, and write it to an output folder."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dataengine import durable
from dataengine.diagnosis.encoders import IMAGENET, MIT_NAMES, RANDOM
from dataengine.errors import InputRefused, NotFound
from dataengine.records import DetectorVersion, Report, Source, Split, count_of, digest, no_report
from pipelines.config import TrainingRun
from pipelines.services.standalone.models import CLINIC, HUB_ID, find_detector
from pipelines.services.standalone.output import HIDDEN, begun_output, output_workspace
from pipelines.services.training import here
from pipelines.services.training.tracking import tracked_report

if TYPE_CHECKING:
    from pipelines.exchange.importer import ImportResult, Reading, Row
    from pipelines.exchange.metadata import Note
    from storage.workspace import Workspace

PROBLEMS = "problems.csv"
NOT_IMAGES = ("a label without an image", "a label that may belong")
"""How the reasons of masks begin that belong to no image."""
CLEAN = "--clean"
"""What a refusal is called that concerns the option and no file."""
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
    track: str = ""
    """Tracker that the figures are also logged to."""

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
    from pipelines.jobs.write_training import write_training
    from pipelines.runtime.context import real_context

    if not 0 < request.validation <= UNEVEN:
        raise InputRefused(f"--validation {request.validation:g} must lie above 0 and at most {UNEVEN:g}")
    found = _read(request)
    state = request.out / HIDDEN / "training.json"
    with (
        begun_output(request.out, "train", request.settings()),
        output_workspace(request.out, request.workspace) as workspace,
    ):
        data, problems = _import(workspace, request, found, report)
        plan = _with_start(workspace, request.plan)
        notes = [_require_flaws(workspace, plan, data["refused_files"])]
        if _trained(workspace, state) is None:
            notes += here.require_training(workspace, plan)
    _write_problems(request.out / PROBLEMS, problems)
    say(describe_data(data))
    for note in filter(None, notes):
        say(f"note: {note}")
    with output_workspace(request.out, request.workspace) as workspace:
        curves = Curves(request.out / HIDDEN / "curves.jsonl", report)
        version = _trained(workspace, state)
        if version is None:
            version = _train(workspace, request, plan, device, curves)
            durable.write_text(state, json.dumps({"detector": version.id}))
        context = real_context(workspace, device, report)
        return write_training(context, version, plan, request.out, data, curves.series())


def _train(
    workspace: "Workspace", request: MaskTraining, plan: TrainingRun, device: str | None, curves: "Curves"
) -> DetectorVersion:
    """Train, with the figures in the tracker that the request names."""
    logged: AbstractContextManager[Report] = nullcontext(curves)
    if request.track:
        run, settings = f"train-{request.out.name}", plan.model_dump(mode="json")
        logged = tracked_report(curves, request.track, run, settings, request.out / "tracking")
    with logged as report:
        return here.trained_detector(workspace, here.train_detector(workspace, plan, device, report))


def describe_data(data: Mapping[str, Any]) -> str:
    """What was read, in one sentence."""
    parts = [f"{data['masked']} of {count_of(data['images'], 'image')} with a mask"]
    if data["unmasked"]:
        parts.append(
            f"{data['unmasked']} without one, taken as free of artifacts"
            if data["unmasked_are_clean"]
            else f"{data['unmasked']} without one, left out (--clean takes such as free of artifacts)"
        )
    if data["lost_masks"]:
        parts.append(f"{count_of(data['lost_masks'], 'mask')} without an image")
    if data["real"]:
        parts.append(f"{count_of(data['real'], 'real image')} without artifacts")
    if data["refused"]:
        parts.append(
            f"{count_of(data['refused'], 'file')} refused, never counted as clean; {PROBLEMS} lists all"
        )
    return "; ".join(parts)


@dataclass
class Curves:
    """A `Report` that also keeps the figures of each step, across interruptions, and passes all on."""

    path: Path
    report: Report

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
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


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The images of a training as listed, before any is decoded."""

    labelled: "Reading"
    masked: int
    """Images with a mask of their own."""
    real: "Reading | None"


def _read(request: MaskTraining) -> _Found:
    """The images with their masks, and the real ones. Raises `InputRefused` before anything is written."""
    from pipelines.exchange.import_options import ImportOptions
    from pipelines.exchange.readers.folders import read_folder
    from pipelines.exchange.readers.mask_folders import read_mask_folder

    options = ImportOptions(path=request.masks, images=request.images)
    labelled = read_mask_folder(options)
    masked = sum(row.answers is not None for row in labelled.rows)
    if not masked:
        raise InputRefused(
            f"no mask in {request.masks} belongs to an image in {request.images}: they are matched by name, "
            "as photo.png and photo.png, photo.jpg and photo.png, or photo.png and photo_mask.png"
        )
    if request.clean:
        labelled = read_mask_folder(replace(options, clean=True))
    return _Found(labelled=labelled, masked=masked, real=read_folder(request.real) if request.real else None)


def _import(
    workspace: "Workspace", request: MaskTraining, found: _Found, report: Report
) -> "tuple[dict[str, Any], list[ImportResult]]":
    """Import the images, in splits drawn by the training's seed; what was read, in counts, and the results
    of importing."""
    results = [_import_reading(workspace, request, found.labelled, "imported", report)]
    if found.real is not None:
        results.append(_import_reading(workspace, request, found.real, "real", report))
    refused = [one for result in results for one in result.refused if one.name != CLEAN]
    lost = sum(one.reason.startswith(NOT_IMAGES) for one in refused)
    images = found.labelled.total
    data = {
        "images": images,
        "masked": found.masked,
        "unmasked": images - found.masked,
        "unmasked_are_clean": request.clean and not lost,
        "lost_masks": lost,
        "real": found.real.total if found.real else 0,
        "refused": len(refused) - lost,
        "near_duplicates": sum(len(result.alike) for result in results),
        "remarks": [remark for result in results for remark in result.losses],
        "refused_files": [f"{one.name}: {one.reason}" for one in refused],
    }
    return data, results


def _import_reading(
    workspace: "Workspace", request: MaskTraining, reading: "Reading", source: Source, report: Report
) -> "ImportResult":
    from pipelines.exchange.importer import Ingest, import_reading

    rows = list(reading.rows)
    splits = draw_splits(_kinds(rows), request.validation, request.plan.training.seed)
    placed = replace(reading, rows=[_placed(row, splits[row.name]) for row in rows])
    ingest = Ingest(source=source, licence=request.licence, validation=request.validation)
    return import_reading(workspace, placed, ingest, report=report)


def draw_splits(kinds: Mapping[str, int], share: float, seed: int) -> dict[str, Split]:
    """A split for each image, by its name below its folder: `share` of each kind, rounded up, is validation.

    Images that differ in folder and suffix alone stay together. The draw depends on the seed and on each
    name, not on their order. The importer then keeps near-duplicates together, in validation if in doubt.
    """
    stems = {name: PurePosixPath(name).stem.casefold() for name in kinds}
    strata: dict[str, int] = {}
    for name, kind in kinds.items():
        strata[stems[name]] = max(kind, strata.get(stems[name], kind))
    held_back: set[str] = set()
    for kind in set(strata.values()):
        part = [stem for stem in strata if strata[stem] == kind]
        drawn = sorted(part, key=lambda stem: digest("split", seed, stem))
        held_back |= set(drawn[: math.ceil(share * len(drawn))]) if len(drawn) > 1 else set()
    return {name: "validation" if stem in held_back else "train" for name, stem in stems.items()}


def _kinds(rows: "Sequence[Row]") -> dict[str, int]:
    """2 for each image whose masks mark something, 1 for an empty mask, 0 where there is none to read."""
    from dataengine.images import stored_size
    from pipelines.runtime.prefetch import prefetch

    def kind(row: "Row") -> int:
        if row.answers is None:
            return 0
        try:
            assert row.load
            answers = list(row.answers(*stored_size(row.load()[0])))
        except InputRefused:
            return 0
        if any(answer.label_map is not None for answer in answers):
            return 2
        return 0 if any(answer.refused for answer in answers) else 1

    return {row.name: found for row, found in zip(rows, prefetch(rows, kind), strict=True)}


def _placed(row: "Row", split: Split) -> "Row":
    """The row in that split, unless its own metadata states one."""

    def load() -> "tuple[bytes, Note]":
        assert row.load
        data, note = row.load()
        return data, note if note.split else replace(note, split=split)

    return replace(row, load=load)


def _write_problems(path: Path, results: "Sequence[ImportResult]") -> None:
    """List every refused file and every near-duplicate; no file where there are none."""
    from dataengine.csv_files import as_csv
    from pipelines.reports.output_files import write_file, writing

    rows = [("refused", *one) for result in results for one in result.refused]
    rows += [("near-duplicate", *one) for result in results for one in result.alike]
    if rows:
        with writing(path.parent):
            write_file(path, as_csv(("what", "name", "reason"), rows).encode("utf-8", "replace"))


def _with_start(workspace: "Workspace", plan: TrainingRun) -> TrainingRun:
    """The plan with its start registered where that is a detector's folder, a hub id or the shipped one."""
    start = plan.start or ""
    if start in (IMAGENET, RANDOM, *MIT_NAMES, ""):
        return plan
    folder = Path(start).expanduser()
    on_hub = HUB_ID.fullmatch(start) is not None and not folder.exists()
    if start == CLINIC or on_hub or (folder / "detector.json").is_file():
        return plan.model_copy(update={"start": find_detector(workspace, start).id})
    return plan


def _require_flaws(workspace: "Workspace", plan: TrainingRun, refused: Sequence[str]) -> str:
    """Raise `InputRefused` where no training image has an artifact; a note where no validation image has one,
    else "". `refused` names the files that were not read."""
    from pipelines.detectors.training_data import read_training_data
    from pipelines.detectors.training_set import labelled_items

    splits: tuple[Split, ...] = ("train", "validation")
    data = read_training_data(workspace, plan.publish.labels, None, splits)
    marked = {
        split: sum(item.positive for item in labelled_items(workspace.blobs, data, split, plan.publish))
        for split in splits
    }
    if not marked["train"]:
        first = f"; {count_of(len(refused), 'file')} refused, the first is {refused[0]}" if refused else ""
        raise InputRefused(
            f"no mask of a training image marks an artifact (of validation images: {marked['validation']}); "
            f"give more masks with white areas{first}"
        )
    if marked["validation"]:
        return ""
    return (
        "no validation image has an artifact, so little can be said of the detector; give more images or a "
        "larger --validation"
    )


def _trained(workspace: "Workspace", state: Path) -> DetectorVersion | None:
    """The detector that an earlier call trained."""
    try:
        with workspace.catalog(read_only=True) as catalog:
            return catalog.detectors.get(json.loads(state.read_text())["detector"])
    except (OSError, ValueError, KeyError, TypeError, NotFound):
        return None
