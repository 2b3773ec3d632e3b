"""The formats that datasets are imported from, and the import itself.

A new format is one reader and one entry in `FORMATS`; readers are imported when they are used, so that the
command line prints the table without loading any.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataengine.coordinates import COORDINATES
from dataengine.csv_files import CsvTable
from dataengine.errors import InputRefused
from dataengine.records import Report, no_report
from pipelines.exchange.import_options import ImportOptions
from pipelines.runtime.loading import import_object

if TYPE_CHECKING:
    from pipelines.exchange.importer import ImportResult, Ingest, Reading
    from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ImportFormat:
    """One layout of a dataset."""

    reader: str
    """ "module:function" of this package's `readers`, from `ImportOptions` to `Reading`."""
    what: str
    """A short description."""
    expects: str
    """The files that are expected at the given path."""
    annotated: bool = True
    """Whether it has annotations, so that an image without any may be called free of artifacts."""
    coarse: bool = False
    """Whether its labels are too coarse for evaluation, and therefore refused in a benchmark."""

    def read(self, options: ImportOptions) -> "Reading":
        """Read the dataset's rows. Raises `InputRefused` if it cannot be read at all."""
        reading: Reading = import_object(f"pipelines.exchange.readers.{self.reader}")(options)
        return reading


FORMATS: dict[str, ImportFormat] = {
    "folder": ImportFormat(
        reader="folders:read_images",
        what="images without labels",
        expects="a folder of images; metadata.csv or a sidecar per image for prompts and seeds",
        annotated=False,
    ),
    "coco": ImportFormat(
        reader="coco:read_coco",
        what="COCO instances",
        expects="a JSON file, or a folder with one and images/, as CVAT, Roboflow or cocodataset.org do",
    ),
    "masks": ImportFormat(
        reader="mask_folders:read_masks",
        what="masks as images",
        expects="images/ and masks/ with equal names, or labels.csv",
    ),
    "hf": ImportFormat(
        reader="hugging_face:read_hugging_face",
        what="a Hugging Face dataset",
        expects="Parquet, Arrow or tar files, or images by splits; or hf://OWNER/NAME",
    ),
    "pal4vst": ImportFormat(
        reader="mask_folders:read_pal4vst",
        what="PAL4VST as published",
        expects="TASK/images/ and TASK/labels/",
    ),
    "richhf": ImportFormat(
        reader="richhf:read_richhf",
        what="RichHF-18K as published",
        expects="TFRecords, and its images with --images",
        # All of its circles have the same radius (see its paper).
        coarse=True,
    ),
    "hadm": ImportFormat(
        reader="hadm:read_hadm",
        what="HADM as published",
        expects="annotations/SPLIT/ and images/SPLIT/",
    ),
    "synthscars": ImportFormat(
        reader="synthscars:read_synthscars",
        what="SynthScars as published",
        expects="train/ and test/ with annotations/ and images/",
    ),
    "sdg": ImportFormat(
        reader="defects:read_defects",
        what="boxes with type, reason and importance, SDG-30K as published",
        expects="a .jsonl or .json file of rows, or a folder with annotations/; --coordinates says how boxes "
        "are written",
    ),
    "label-studio": ImportFormat(
        reader="label_studio:read_label_studio",
        what="Label Studio's JSON export",
        expects="a JSON file, or a folder with one; images/ beside it, or --images",
    ),
}
"""Import formats by name."""

BOX_COORDINATES = tuple(COORDINATES)
"""What the numbers of a box can mean."""


def import_dataset(
    workspace: "Workspace",
    format: str,
    options: ImportOptions,
    ingest: "Ingest",
    *,
    trial: bool = False,
    workers: int | None = None,
    report: Report = no_report,
) -> "ImportResult":
    """Import a dataset of one of `FORMATS`; `trial` reads and counts everything, but stores nothing.

    Raises `InputRefused` if the dataset cannot be read at all; single bad rows are listed in the result.
    """
    from pipelines.exchange.importer import import_reading
    from pipelines.exchange.safe_files import open_safely

    if format not in FORMATS:
        raise InputRefused(f"there is no format {format!r}; formats are {', '.join(FORMATS)}")
    if options.clean and not FORMATS[format].annotated:
        raise InputRefused(
            f"the format {format} knows no annotations, so --clean would call every image free of artifacts; "
            "name the --format of your annotations, or import real photos with --source real"
        )
    if FORMATS[format].coarse:
        if ingest.benchmark:
            raise InputRefused(f"{format} labels are too coarse for evaluation and cannot enter a benchmark")
        ingest = replace(ingest, benchmarks_refused=True)
    with workspace.catalog(read_only=True) as catalog:
        classes = catalog.classes.names()
    with open_safely(options.path) as path:
        reading = FORMATS[format].read(replace(options, path=path, classes=classes))
        ingest = replace(ingest, dataset=ingest.dataset or ("" if format == "folder" else format))
        return import_reading(workspace, reading, ingest, trial=trial, workers=workers, report=report)


def write_problems(workspace: "Workspace", result: "ImportResult") -> Path | None:
    """Write refused rows and near-duplicates to a CSV in `imports/`; returns None if there are neither."""
    from storage.stores.blobs import writing

    if not result.refused and not result.alike:
        return None
    folder = workspace.path / "imports"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.csv"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            table = CsvTable(file, ("what", "name", "reason"))
            for what, problems in (("refused", result.refused), ("near-duplicate", result.alike)):
                for name, reason in problems:
                    table.add({"what": what, "name": name, "reason": reason})
    return path
