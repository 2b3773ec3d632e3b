"""Datasets in, by the name of their format: read, counted, and taken in as rows of pictures and answers."""

import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.records import Report, no_report
from pipelines.exchange.import_options import Wanted
from pipelines.exchange.importer import ImportResult, Ingest, Reading, take_in
from pipelines.exchange.readers.coco import read_coco
from pipelines.exchange.readers.folders import read_folder
from pipelines.exchange.readers.hadm import read_hadm
from pipelines.exchange.readers.label_studio import read_label_studio
from pipelines.exchange.readers.mask_folders import read_masks, read_pal4vst
from pipelines.exchange.readers.parquet import read_parquet
from pipelines.exchange.readers.richhf import read_richhf
from pipelines.exchange.safe_files import open_safely
from storage.stores.blobs import writing
from storage.workspace import Workspace


def _folder(wanted: Wanted) -> Reading:
    return read_folder(wanted.path)


READERS: dict[str, Callable[[Wanted], Reading]] = {
    "folder": _folder,
    "coco": read_coco,
    "masks": read_masks,
    "hf": read_parquet,
    "pal4vst": read_pal4vst,
    "richhf": read_richhf,
    "hadm": read_hadm,
    "label-studio": read_label_studio,
}
COARSE = ("richhf",)
"""Formats whose labels are too coarse to measure by: RichHF's circles all have one radius (its paper)."""


def import_dataset(
    workspace: Workspace,
    format: str,
    wanted: Wanted,
    ingest: Ingest,
    *,
    trial: bool = False,
    workers: int | None = None,
    report: Report = no_report,
) -> ImportResult:
    """Take in a dataset of one of `READERS`; `trial` reads and counts everything and keeps nothing.

    Raises `InputRefused` when the dataset as a whole cannot be read; single rows are refused by name.
    """
    if format not in READERS:
        raise InputRefused(f"there is no format {format!r}; formats are {', '.join(READERS)}")
    if format in COARSE:
        if ingest.benchmark:
            raise InputRefused(f"{format} labels are circles of a fixed radius and never enter a benchmark")
        ingest = replace(ingest, benchmarks_refused=True)
    with workspace.catalog(read_only=True) as catalog:
        classes = catalog.classes.names()
    with open_safely(wanted.path) as path:
        reading = READERS[format](replace(wanted, path=path, classes=classes))
        ingest = replace(ingest, dataset=ingest.dataset or ("" if format == "folder" else format))
        return take_in(workspace, reading, ingest, trial=trial, workers=workers, report=report)


def write_problems(workspace: Workspace, result: ImportResult) -> Path | None:
    """What was refused, and which pictures look like others, as a CSV in `imports/`; None without either."""
    if not result.refused and not result.alike:
        return None
    folder = workspace.path / "imports"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.csv"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("what", "name", "reason"))
            rows.writerows(("refused", *one) for one in result.refused)
            rows.writerows(("looks like another", *one) for one in result.alike)
    return path
