"""The job that exports images with their labels into one .zip, for a browser to download.

Input: a selection or a snapshot, and a format. Output: `WORKSPACE/exports/RUN.zip`, or a blob where the
server may have another folder than this worker; deleted a day later. Cost: reading every image once, and
twice its bytes of disk while the archive is written. Safe to kill and to repeat: the archive appears when it
is complete.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.records import now
from pipelines.exchange.writers.hub import export_snapshot
from pipelines.exchange.writers.snapshot_folder import export_folder
from pipelines.runtime.context import Context, Result
from pipelines.selections.config import ExportRun
from storage.maintenance.archives import KEPT_SECONDS, drop_exports, shares_folder
from storage.maintenance.erase_files import EXPORTS
from storage.stores.blobs import writing
from storage.workspace import Workspace

PRESSED = (".csv", ".json", ".txt", ".yaml", ".xml", ".md")
"""Texts, which shrink; images do not."""


def export_job(context: Context, args: dict[str, Any]) -> Result:
    """Write the archive of the run `args["run"]`; its size, and what the format does not contain."""
    run = ExportRun.model_validate(args["settings"])
    drop_exports(context.workspace)
    archive = archive_of(context.workspace, args["run"])
    folder = archive.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        counts = _export(context, run, folder)
        context.report(0, 1, "packing")
        pack(folder, archive)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stored: Result = {"bytes": archive.stat().st_size, "until": now() + KEPT_SECONDS}
    if not shares_folder(context.workspace):
        context.report(0, 1, "storing the archive")
        stored["blob"] = context.workspace.blobs.put_file(archive)
        archive.unlink()
    return counts | stored


def _export(context: Context, run: ExportRun, folder: Path) -> Result:
    if run.format == "hf":
        assert run.snapshot is not None
        rows = export_snapshot(context.workspace, run.snapshot, folder, report=context.report)
        return {"images": rows.rows, "masks": 0, "losses": []}
    done = export_folder(
        context.workspace,
        folder,
        format=run.format,
        only_labelled=run.only_labelled,
        snapshot=run.snapshot,
        selection=None if run.snapshot else run.images,
        pictures=run.pictures,
        report=context.report,
    )
    return {"images": done.images, "masks": done.masks, "losses": list(done.losses)}


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder into an archive, file by file. Raises `Unavailable` for a full disk."""
    draft = archive.with_suffix(".part")
    try:
        with writing(archive.parent), zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as packed:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                text = path.suffix in PRESSED
                packed.write(
                    path,
                    path.relative_to(folder).as_posix(),
                    zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED,
                )
        durable.move(draft, archive)
    finally:
        draft.unlink(missing_ok=True)


def archive_of(workspace: Workspace, run_id: str) -> Path:
    """The archive of an export."""
    return workspace.path / EXPORTS / f"{run_id}.zip"
