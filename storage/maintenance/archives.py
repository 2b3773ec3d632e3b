"""Exports for download: a file of the workspace's folder where server and workers share it, else a blob.

The result of its job names the blob until the export expires, so that garbage collection keeps it as long.
"""

from dataengine.records import Job, now
from storage.maintenance.erase_files import EXPORTS
from storage.workspace import Workspace

KIND = "export"
KEPT_SECONDS = 24 * 3600.0
"""How long an export can be downloaded."""


def shares_folder(workspace: Workspace) -> bool:
    """Whether whoever has this workspace's blobs also has its folder."""
    blobs = workspace.blobs.folder
    return blobs is not None and blobs.resolve().is_relative_to(workspace.path.resolve())


def drop_exports(workspace: Workspace, expired: bool = True) -> int:
    """Delete the exports that nobody can download any more, or all of them; returns their number."""
    before = now() - KEPT_SECONDS if expired else float("inf")
    dropped = 0
    for path in (workspace.path / EXPORTS).glob("*.zip"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
            dropped += 1
    with workspace.catalog(read_only=True) as catalog:
        stored = [job for job in catalog.jobs.list(("succeeded",), KIND) if "blob" in job.result]
    old = [job for job in stored if (job.finished or job.created) < before]
    kept = {job.result["blob"] for job in stored if job not in old}
    for job in old:
        if job.result["blob"] not in kept:
            workspace.blobs.purge(job.result["blob"])
        _forget(workspace, job)
    return dropped + len(old)


def _forget(workspace: Workspace, job: Job) -> None:
    with workspace.catalog() as catalog:
        catalog.jobs.set_result(job.id, {name: value for name, value in job.result.items() if name != "blob"})
        catalog.commit()
