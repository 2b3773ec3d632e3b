"""Diagnose and repair images that a person uploads, for a page that shows each before and after."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataengine.durable import make_folder
from dataengine.errors import InputRefused
from dataengine.images import as_shown, measure
from dataengine.records import Report, no_report
from pipelines.exchange.metadata import displayable_name
from pipelines.selections.config import RepairRun
from pipelines.services.images.repairs import repair_files
from pipelines.services.standalone.diagnosis import diagnose_unrecorded
from storage.workspace import Workspace

MOST = 200
"""Files of one call."""
IMAGES, SHOWN, DIAGNOSED, REPAIRED = "images", "shown", "diagnosed", "repaired"


@dataclass(frozen=True, kw_only=True)
class ExaminedImage:
    """What was found in one uploaded file, and the images that show it."""

    name: str
    state: str
    """"flagged", "clean", "repaired" or "refused"."""
    confidence: float | None = None
    """The highest of its map, in [0, 1]; of the original."""
    after: float | None = None
    """The highest confidence in its repaired regions; None where nothing was redrawn."""
    area: float | None = None
    """Share of its pixels from the component threshold on."""
    regions: int = 0
    reason: str = ""
    original: Path | None = None
    """The image in a format that browsers show; None for a refused file."""
    overlay: Path | None = None
    """The image with its map over it, at most 1024 pixels a side."""
    repaired: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All files of one call, the highest confidence first, with the report and what to know of the models."""

    images: tuple[ExaminedImage, ...]
    report: Path
    notes: tuple[str, ...]


def diagnose_uploads(
    workspace: Workspace,
    paths: Sequence[Path],
    folder: Path,
    detector_id: str = "",
    *,
    device: str | None = None,
    report: Report = no_report,
) -> Examination:
    """Maps of the files, by a registered detector or "" for the champion; everything is written to `folder`.

    Raises `InputRefused` for no files, too many, and if not one is an image; `NotFound` and `ConfigRefused`
    as `diagnose_unrecorded`.
    """
    images = _gather(paths, folder)
    rows: list[dict[str, Any]] = []
    with _short_names(images):
        result = diagnose_unrecorded(
            workspace,
            [images],
            folder / DIAGNOSED,
            detector_id,
            device=device,
            report=report,
            each=rows.append,
        )
    found = [_examined(folder, images, row) for row in rows]
    found.sort(key=lambda one: (one.state == "refused", -(one.confidence or 0.0), one.name))
    # What follows the first sentence of a note names options of the command.
    notes = tuple(_sentence(note.partition(". ")[0]) for note in result["notes"])
    return Examination(images=tuple(found), report=Path(result["report"]), notes=notes)


def repair_uploads(
    workspace: Workspace,
    paths: Sequence[Path],
    folder: Path,
    run: RepairRun,
    *,
    device: str | None = None,
    report: Report = no_report,
) -> Examination:
    """As `diagnose_uploads`; what was found is then redrawn, and kept only where that is better.

    Raises as `diagnose_uploads`, and `ConfigRefused` without a generator.
    """
    before = diagnose_uploads(workspace, paths, folder, run.detector or "", device=device, report=report)
    images, out = folder / IMAGES, folder / REPAIRED
    with _short_names(images):
        result = repair_files(workspace, run, [images], out, device, report)
    with Path(result["report"]).open(newline="", encoding="utf-8") as file:
        rows = {_name(images, row["file"]): row for row in csv.DictReader(file)}
    merged = [_with_repair(out, one, rows.get(one.name)) for one in before.images]
    notes = dict.fromkeys((*before.notes, *map(_sentence, result["notes"])))
    return Examination(images=tuple(merged), report=Path(result["report"]), notes=tuple(notes))


def _gather(paths: Sequence[Path], folder: Path) -> Path:
    """Copies of the files under their own names, in one folder."""
    if not paths:
        raise InputRefused("no image was given; choose images or a folder first")
    if len(paths) > MOST:
        raise InputRefused(
            f"{len(paths)} files were given, and this page takes {MOST} at once; `clinic diagnose FOLDER` on "
            "the server takes any number"
        )
    images = folder / IMAGES
    make_folder(images)
    for path in paths:
        target, number = images / path.name, 2
        while target.exists():
            target, number = images / f"{path.stem}-{number}{path.suffix}", number + 1
        shutil.copyfile(path, target)
    return images


@contextmanager
def _short_names(images: Path) -> Iterator[None]:
    """Errors name the files as the person knows them, without the folder of the uploads."""
    try:
        yield
    except InputRefused as error:
        raise type(error)(str(error).replace(f"{displayable_name(str(images))}/", "")) from error


def _name(images: Path, file: str) -> str:
    return file.removeprefix(f"{displayable_name(str(images))}/")


def _examined(folder: Path, images: Path, row: dict[str, Any]) -> ExaminedImage:
    name = _name(images, row["file"])
    return ExaminedImage(
        name=name,
        state=row["state"],
        confidence=row["confidence"],
        area=row["area"],
        regions=row["regions"],
        reason=row["reason"],
        original=_shown(folder, images / name) if row["overlay"] else None,
        overlay=folder / DIAGNOSED / row["overlay"] if row["overlay"] else None,
    )


def _with_repair(out: Path, one: ExaminedImage, row: dict[str, str] | None) -> ExaminedImage:
    if row is None or row["state"] == "unchanged":
        return one
    if row["state"] == "refused":
        return replace(one, reason=row["reason"])
    peaks = [float(peak) for peak in row["peaks_after"].split("; ") if peak]
    return replace(
        one,
        state="repaired",
        repaired=out / row["output"],
        after=max(peaks, default=None),
        reason=row["reason"],
    )


def _shown(folder: Path, path: Path) -> Path:
    """The image as browsers show it: the file itself, or a copy in another format."""
    data = path.read_bytes()
    shown, media_type = as_shown(data, measure(data).media_type)
    if shown == data and media_type in SUFFIXES and path.suffix.lower() in SUFFIXES[media_type]:
        return path
    target = folder / SHOWN / f"{path.name}{SUFFIXES.get(media_type, ('.png',))[0]}"
    make_folder(target.parent)
    target.write_bytes(shown)
    return target


SUFFIXES = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/bmp": (".bmp",),
}


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."
