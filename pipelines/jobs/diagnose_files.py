"""Diagnose image files: the map of each, its overlay, a report, a contact sheet and a gallery.

Input: image files and a detector, opened from its files or registered in a workspace. Output in a folder:
`maps/`, `overlays/`, `report.csv`, `contact_sheet.jpg` and `gallery.html`; with a workspace its images and
predictions as well. A file that cannot be used gets a line of the report and is not clean. Files that were
done with the same detector are skipped, so a killed run resumes. Memory does not grow with the number of
files: a few images are decoded ahead, and a few maps wait to be written.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataengine import durable
from dataengine.errors import ClinicError, ImageRefused, InputRefused
from dataengine.images import decode, stored_size
from dataengine.masks import dequantise
from dataengine.records import DetectorVersion, Image, OperatingPoint, Report, count_of, digest, no_report
from pipelines.exchange.importer import Ingest, Reading, import_reading
from pipelines.exchange.metadata import Note, Refusal, displayable_name
from pipelines.reports.diagnosis import (
    OVERLAY_QUALITY,
    Done,
    FileDiagnosis,
    Journal,
    Showcase,
    by_confidence,
    count_states,
    describe_map,
    draw_overlay,
    encode_jpeg,
    encode_map,
    make_thumbnails,
    render_contact_sheet,
    render_gallery,
    report_csv,
)
from pipelines.reports.gallery import MOST
from pipelines.reports.inputs import InputFile
from pipelines.reports.output_files import holds, write_file, writing
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import read_pixels
from pipelines.runtime.models import Models
from pipelines.runtime.prefetch import prefetch

REPORT, GALLERY, SHEET = "report.csv", "gallery.html", "contact_sheet.jpg"
MAPS, OVERLAYS = "maps", "overlays"
OVERLAY_SIDE = 1024
"""Longest side of an overlay, in pixels."""
SHOWN, NAMED = 20, 3
"""Refused files that the result names, and those that an error names; the report lists all."""
BATCH, BATCH_ON_CPU = 32, 4
BATCH_PIXELS, WAITING_PIXELS = 4_194_304, 16_777_216
"""Of one batch, and of all images that wait until their batch is full."""
HUGE_PIXELS = 24_000_000
"""Of an image that nothing else waits beside."""
PAGE = 64
"""Images that a workspace predicts at a time."""
WRITERS = 2
MapForm = Literal["png", "npz"]


@dataclass(frozen=True, kw_only=True)
class UsedDetector:
    """The detector of a diagnosis, and what a person must know of it."""

    name: str
    fingerprint: str
    """Digest of what decides its maps and states."""
    point: OperatingPoint
    text: str
    """Its operating point in words."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A file whose map is to be written."""

    file: InputFile
    key: str
    pixels: Callable[[], np.ndarray]
    """The image, uint8 HW3."""
    confidence: np.ndarray
    """Its map, float32 HW in [0, 1]."""


Batches = Iterator[list[Predicted | FileDiagnosis]]
"""Predicted files, and outcomes of files that need no prediction, as they come."""


class FileDiagnoser:
    """Writes the diagnosis of files to an output folder."""

    def __init__(self, out: Path, state: Path, detector: UsedDetector, form: MapForm) -> None:
        """`state` is the folder of the records, in `out`. Raises `WorkspaceUnusable`."""
        self.out, self.detector, self.form = out, detector, form
        with writing(out):
            durable.make_folder(state)
            self.journal = Journal(state / "images.jsonl")
        self.known = 0
        self._settings = digest(detector.fingerprint, form, OVERLAY_SIDE)
        self._showcase = Showcase()

    def key(self, hashed: str) -> str:
        """What a file of that hash is known by."""
        return digest(hashed, self._settings)

    def done_before(self, file: InputFile, key: str) -> FileDiagnosis | None:
        """The diagnosis of a file that was made before, with all its results there."""
        done = self.journal.done.get(str(file.path))
        if done is None or done.key != key or set(done.hashes) != set(self._names(file)):
            return None
        if not all(holds(self.out / name, hashed) for name, hashed in done.hashes.items()):
            return None
        return replace(done.found, file=file.name)

    def run(
        self, batches: Batches, total: int, report: Report, each: Callable[[FileDiagnosis], None]
    ) -> None:
        """Write the results of these files as they come, and tell `each` of them."""
        finished = 0
        report(finished, total, "diagnosing")
        # Results are written while the next batch is predicted.
        for outcomes in prefetch(batches, self._write_all, ahead=WRITERS):
            for outcome, record in outcomes:
                if record is not None:
                    with writing(self.out):
                        self.journal.add(record)
                    fail_point("diagnose_files:written")
                self.known += record is None and outcome.state != "refused"
                each(outcome)
            finished += len(outcomes)
            report(finished, total, "diagnosing")

    def _write_all(
        self, batch: Sequence[Predicted | FileDiagnosis]
    ) -> list[tuple[FileDiagnosis, Done | None]]:
        return [(one, None) if isinstance(one, FileDiagnosis) else self._write(one) for one in batch]

    def _names(self, file: InputFile) -> tuple[str, str]:
        return f"{MAPS}/{file.stem}.{self.form}", f"{OVERLAYS}/{file.stem}.jpg"

    def _write(self, one: Predicted) -> tuple[FileDiagnosis, Done | None]:
        map_name, overlay_name = self._names(one.file)
        found = describe_map(one.file.name, one.confidence, self.detector.point)
        found = replace(found, map=map_name, overlay=overlay_name)
        try:
            pixels = one.pixels()
            data, stored = encode_map(one.confidence, self.form)
            overlay = draw_overlay(pixels, stored, OVERLAY_SIDE)
            written = {map_name: data, overlay_name: encode_jpeg(overlay, OVERLAY_QUALITY)}
            with writing(self.out):
                hashes = {
                    name: write_file(self.out / name, body, synced=False) for name, body in written.items()
                }
        except InputRefused as error:
            return FileDiagnosis(file=one.file.name, state="refused", reason=str(error)), None
        former = self.journal.done.get(str(one.file.path))
        for name in set(former.hashes if former else ()) - set(hashes):
            if former and holds(self.out / name, former.hashes[name]):
                (self.out / name).unlink()
        if self._showcase.wants(found):
            self._showcase.add(make_thumbnails(found, pixels, overlay))
        return found, Done(path=str(one.file.path), key=one.key, hashes=hashes, found=found)

    def write_report(self, found: Sequence[FileDiagnosis]) -> None:
        """Write the table of all files."""
        with writing(self.out):
            write_file(self.out / REPORT, report_csv(found).encode("utf-8", "replace"))

    def write_pages(
        self, inputs: Sequence[InputFile], found: Sequence[FileDiagnosis], report: Report
    ) -> None:
        """Write contact sheet and gallery of the images with the highest confidence."""
        files = {self._names(each)[0]: each for each in inputs}
        best = by_confidence(each for each in found if each.state != "refused")[:MOST]
        for number, one in enumerate(best):
            report(number, len(best), "writing the gallery")
            if not self._showcase.has(one):
                self._show_again(files[one.map], one)
        shown = self._showcase.shown()
        counts = count_states(found)
        lead = (
            f"{count_of(counts['flagged'], 'image')} flagged, {counts['clean']} not, "
            f"{count_of(counts['refused'], 'file')} refused; {self.detector.name}"
        )
        page = render_gallery(shown, found, f"{self.detector.name} {self.detector.text}", self.detector.notes)
        with writing(self.out):
            write_file(self.out / GALLERY, page.encode("utf-8", "replace"))
            if shown:
                sheet = render_contact_sheet(shown, "Artifacts by confidence", lead)
                write_file(self.out / SHEET, encode_jpeg(sheet, OVERLAY_QUALITY))

    def _show_again(self, file: InputFile, found: FileDiagnosis) -> None:
        """Thumbnails of an image that an earlier run diagnosed."""
        try:
            assert file.row.load
            pixels = decode(file.row.load()[0])
            overlay = decode((self.out / found.overlay).read_bytes())
            self._showcase.add(make_thumbnails(found, pixels, overlay))
        except (OSError, ClinicError):
            return  # a file that went away meanwhile is listed in the report


def diagnose_files(
    diagnoser: FileDiagnoser,
    batches: Batches,
    inputs: Sequence[InputFile],
    refused: Sequence[Refusal],
    report: Report,
    each: Callable[[FileDiagnosis], None] = lambda found: None,
) -> Result:
    """Write the diagnosis of every file; returns counts and the names of what was written.

    Raises `InputRefused` if not one file could be used; the report says why for each.
    """
    found = [FileDiagnosis(file=name, state="refused", reason=reason) for name, reason in refused]
    for outcome in found:
        each(outcome)

    def keep(outcome: FileDiagnosis) -> None:
        found.append(outcome)
        each(outcome)

    try:
        diagnoser.run(batches, len(inputs), report, keep)
    finally:
        diagnoser.journal.close()
        diagnoser.write_report(found)
    if all(outcome.state == "refused" for outcome in found):
        raise nothing_to_diagnose(found)
    diagnoser.write_pages(inputs, found, report)
    out = diagnoser.out
    return {
        "out": str(out),
        **count_states(found),
        "known": diagnoser.known,
        "detector": diagnoser.detector.name,
        "notes": list(diagnoser.detector.notes),
        "refused_files": [f"{one.file}: {one.reason}" for one in found if one.state == "refused"][:SHOWN],
        "report": str(out / REPORT),
        "gallery": str(out / GALLERY),
        "contact_sheet": str(out / SHEET),
    }


def nothing_to_diagnose(found: Sequence[FileDiagnosis]) -> InputRefused:
    """The error for a call in which not one file could be used."""
    named = "; ".join(f"{one.file}: {one.reason}" for one in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return InputRefused(f"no image could be diagnosed: {named or 'there is none'}{more}")


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    file: InputFile
    key: str
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Huge:
    """A file that is decoded when it is predicted."""

    file: InputFile
    key: str
    data: bytes


def iter_files(
    diagnoser: FileDiagnoser, models: Models, detector: Any, inputs: Iterable[InputFile]
) -> Batches:
    """The maps that an opened detector predicts of the files."""
    from dataengine.diagnosis.box_detector import BoxDetector

    batch = BATCH_ON_CPU if models.device == "cpu" else BATCH
    if isinstance(detector, BoxDetector):
        batch = 1  # each image is a request of its own, and what was answered is written at once
    loaded = prefetch(inputs, partial(_load, diagnoser), threads())
    for group in _batches_by_size(loaded, batch):
        if isinstance(group, _Huge):
            # Only one is in memory at a time: the writers catch up first.
            yield from [[]] * (WRITERS + 1)
            group = _decoded(group)
        if isinstance(group, FileDiagnosis):
            yield [group]
            continue
        yield _predicted(models, detector, group, batch)


def _predicted(
    models: Models, detector: Any, group: "list[_Loaded]", batch: int
) -> list[Predicted | FileDiagnosis]:
    """The maps of a group of one size; where the detector refuses, each image alone, so that one costs
    itself."""
    try:
        maps = models.artifact_maps(detector, [one.pixels for one in group], batch)
    except ImageRefused as error:
        if len(group) == 1:
            return [FileDiagnosis(file=group[0].file.name, state="refused", reason=str(error))]
        return [found for one in group for found in _predicted(models, detector, [one], batch)]
    return [
        Predicted(file=one.file, key=one.key, pixels=partial(_same, one.pixels), confidence=confidence)
        for one, confidence in zip(group, maps, strict=True)
    ]


def _decoded(huge: "_Huge") -> list[_Loaded] | FileDiagnosis:
    try:
        return [_Loaded(file=huge.file, key=huge.key, pixels=decode(huge.data))]
    except InputRefused as error:
        return FileDiagnosis(file=huge.file.name, state="refused", reason=str(error))


def threads() -> int:
    """How many files are decoded ahead."""
    return min(8, max(2, os.cpu_count() or 2))


def _same(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _load(diagnoser: FileDiagnoser, file: InputFile) -> _Loaded | _Huge | FileDiagnosis:
    try:
        assert file.row.load
        data, _ = file.row.load()
        key = diagnoser.key(sha256(data).hexdigest())
        if done := diagnoser.done_before(file, key):
            return done
        height, width = stored_size(data)
        if height * width > HUGE_PIXELS:
            return _Huge(file=file, key=key, data=data)
        return _Loaded(file=file, key=key, pixels=decode(data))
    except InputRefused as error:
        return FileDiagnosis(file=file.name, state="refused", reason=str(error))


def _batches_by_size(
    loaded: Iterable[_Loaded | _Huge | FileDiagnosis], batch: int
) -> Iterator[list[_Loaded] | _Huge | FileDiagnosis]:
    """Groups of images of equal size; what is not decoded passes through at once. At most `WAITING_PIXELS`
    wait."""
    waiting: dict[tuple[int, ...], list[_Loaded]] = {}
    pixels = 0
    for one in loaded:
        if not isinstance(one, _Loaded):
            yield one
            continue
        size = one.pixels.shape[:2]
        area = size[0] * size[1]
        waiting.setdefault(size, []).append(one)
        pixels += area
        full = size if len(waiting[size]) >= min(batch, max(1, BATCH_PIXELS // area)) else None
        while full or pixels > WAITING_PIXELS:
            chosen = full or max(waiting, key=lambda each: len(waiting[each]) * each[0] * each[1])
            group, full = waiting.pop(chosen), None
            pixels -= len(group) * chosen[0] * chosen[1]
            yield group
    yield from waiting.values()


def iter_recorded(
    diagnoser: FileDiagnoser, context: Context, version: DetectorVersion, inputs: Sequence[InputFile]
) -> Batches:
    """The maps that a registered detector predicts of the files, which are imported first; both stay in the
    workspace."""
    from pipelines.detectors.predict import predict

    hashes, refused = _import(context, inputs)
    for start in range(0, len(inputs), PAGE):
        page = inputs[start : start + PAGE]
        outcomes: list[Predicted | FileDiagnosis] = []
        with context.workspace.catalog(read_only=True) as catalog:
            wanted = sorted({hashes[one.stem] for one in page if one.stem in hashes})
            known = catalog.images.find(sha256=wanted) if wanted else []
        images = {image.sha256: image for image in reversed(known)}
        pending: list[tuple[InputFile, Image, str]] = []
        for file in page:
            image = images.get(hashes.get(file.stem, ""))
            if image is None:
                reason = refused.get(_origin(file), "it could not be imported")
                outcomes.append(FileDiagnosis(file=file.name, state="refused", reason=reason))
                continue
            pending.append((file, image, diagnoser.key(image.sha256)))
        mine = list({image.id: image for _, image, _ in pending}.values())
        unusable: list[str] = []
        made = predict(replace(context, report=no_report), version.id, mine, BATCH, unusable)
        predictions = {one.image_id: one for one in made}
        for file, image, key in pending:
            prediction = predictions.get(image.id)
            if prediction is None or prediction.map_ref is None:
                given = (one.partition(": ")[2] for one in unusable if one.startswith(image.id))
                reason = next(given, f"{version.name} gave no map of it")
                outcomes.append(FileDiagnosis(file=file.name, state="refused", reason=reason))
            elif done := diagnoser.done_before(file, key):
                outcomes.append(done)
            else:
                outcomes.append(_from_workspace(context, file, image, key, prediction.map_ref))
        yield outcomes


def _from_workspace(context: Context, file: InputFile, image: Image, key: str, map_ref: str) -> Predicted:
    return Predicted(
        file=file,
        key=key,
        pixels=partial(read_pixels, context.workspace, image),
        confidence=dequantise(context.workspace.maps.get(map_ref)),
    )


def _import(context: Context, inputs: Sequence[InputFile]) -> tuple[dict[str, str], dict[str, str]]:
    """Import the files: the hash of each that could be read, by stem, and why others were refused, by
    origin."""
    hashes: dict[str, str] = {}

    def load(file: InputFile) -> tuple[bytes, Note]:
        assert file.row.load
        data, note = file.row.load()
        hashes[file.stem] = sha256(data).hexdigest()
        return data, note

    rows = [replace(file.row, name=_origin(file), load=partial(load, file), answers=None) for file in inputs]
    reading = Reading(rows=rows, total=len(rows))
    result = import_reading(context.workspace, reading, Ingest(source="imported"), report=context.report)
    return hashes, dict(result.refused)


def _origin(file: InputFile) -> str:
    """What an imported file is called in the catalog; no two of a call are called alike."""
    return file.stem + displayable_name(file.path.suffix)
