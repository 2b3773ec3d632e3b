"""Export a selection or a snapshot as one .zip that a browser downloads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dataengine.errors import Conflict, NotFound
from dataengine.records import Job
from pipelines.exchange.writers.snapshot_folder import LABELLED_ONLY, LOSSES
from pipelines.jobs.export_images import archive_of
from pipelines.selections.config import ExportFormat, ExportRun
from pipelines.selections.pages import selected
from pipelines.services.jobs import request_job
from pipelines.services.queue import fresh_id
from storage.maintenance.archives import KIND, drop_exports
from storage.workspace import Workspace

FORMATS: dict[str, str] = {
    "folder": "everything: images, masks, tables and COCO; our import and datasets' imagefolder read it",
    "masks": "images, masks as PNG, tables of metadata and labels (CSV)",
    "coco": "images and one COCO file with RLE masks",
    "yolo": "images and polygons by split, with data.yaml; labelled images only",
    "fiftyone": "images and labels as FiftyOne's COCODetectionDataset reads them",
    "label-studio": "images and tasks with brush annotations",
    "predictions": "a table (CSV) of every detector's confidence, without images",
    "hf": "a published training set as a Hugging Face dataset (Parquet)",
}
"""What each format writes."""
assert FORMATS.keys() == set(get_args(ExportFormat))


def export_formats() -> list[dict[str, Any]]:
    """The formats with what they write and what they leave out."""
    return [
        {
            "name": name,
            "what": what,
            "losses": list(LOSSES.get(name, ())),
            "labelled_only": name in LABELLED_ONLY,
        }
        for name, what in FORMATS.items()
    ]


def request_export(workspace: Workspace, run: ExportRun, actor: str = "") -> Job:
    """Queue an export for a worker. Raises `NotFound` for an empty selection and an unknown snapshot."""
    drop_exports(workspace)
    if run.snapshot is None:
        selected(workspace, run.images)
    else:
        with workspace.catalog(read_only=True) as catalog:
            catalog.snapshots.get(run.snapshot)
    args = {"run": fresh_id(KIND), "settings": run.model_dump(mode="json")}
    return request_job(workspace, KIND, args, actor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A finished export: its file on this machine, or else its parts, in order."""

    name: str
    size: int
    file: Path | None
    parts: Iterator[bytes]


def exported_archive(workspace: Workspace, job_id: str) -> Archive:
    """The archive of a finished export. Raises `NotFound` once it was deleted, `Conflict` before it is
    finished."""
    drop_exports(workspace)
    with workspace.catalog(read_only=True) as catalog:
        job = catalog.jobs.get(job_id)
    if job.kind != KIND:
        raise NotFound(f"{job_id} is no export")
    if job.state != "succeeded":
        raise Conflict(f"this export is {job.state}; download it once it has succeeded")
    file, blob = archive_of(workspace, job.args["run"]), job.result.get("blob")
    known = workspace.blobs.path_or_none(blob) if blob else file if file.is_file() else None
    if known is None and not (blob and workspace.blobs.has(blob)):
        raise NotFound("this export was deleted, as every one is after a day or by an erasure; export again")
    parts = workspace.blobs.chunks(blob) if blob else iter(())
    return Archive(name=file.name, size=job.result["bytes"], file=known, parts=parts)
