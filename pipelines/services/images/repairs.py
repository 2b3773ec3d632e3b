"""Repair image files or images of the catalog, and accept or reject what was proposed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict
from dataengine.records import REPAIRED, AuditEvent, Job, Report, no_report
from pipelines.selections.config import RepairRun
from pipelines.services.images.work import run_here
from pipelines.services.jobs import request_job
from pipelines.services.queue import OPEN, fresh_id
from storage.queries.repairs import RepairPair, RepairState, count_of_repairs, repair_pairs
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.repair.models import RepairModels

KIND = "repair"
NEWEST_JOBS = 200


def choose_models(workspace: Workspace, run: RepairRun) -> "RepairModels":
    """See `pipelines.repair.models.choose_models`; nothing is opened."""
    from pipelines.repair.models import choose_models
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import real_models

    return choose_models(Context(workspace, real_models()), run)


def repair_files(
    workspace: Workspace,
    run: RepairRun,
    paths: Sequence[Path],
    out: Path,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """See `pipelines.jobs.repair_files`."""
    from pipelines.jobs.repair_files import repair_files

    return run_here(workspace, device, report, lambda context: repair_files(context, run, paths, out))


def repair_images(
    workspace: Workspace, run: RepairRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.repair_images`."""
    from pipelines.jobs.repair_images import repair_images

    work_id = fresh_id(KIND)
    return run_here(workspace, device, report, lambda context: repair_images(context, run, work_id))


def request_repair(workspace: Workspace, run: RepairRun, actor: str = "") -> Job:
    """Queue the repair for a worker; its detectors are fixed now.

    Raises `NotFound` for an empty selection and unknown models, `ConfigRefused` without a generator.
    """
    from pipelines.jobs.repair_images import select_images

    models = choose_models(workspace, run)
    select_images(workspace, run)
    named = {"detector": models.detector.id, "chooser": models.chooser.id if models.chooser else None}
    settings = run.model_copy(update=named).model_dump(mode="json")
    return request_job(workspace, KIND, {"run": fresh_id(KIND), "settings": settings}, actor)


def list_repairs(
    workspace: Workspace, state: RepairState, image_id: str | None = None, limit: int = 100
) -> dict[str, Any]:
    """Repairs of a state, the newest first, with the counts of all states, and the newest open job that
    repairs the given image."""
    with workspace.catalog(read_only=True) as catalog:
        pairs = repair_pairs(catalog, state, image_id, limit)
        jobs = catalog.jobs.list(kind=KIND, limit=NEWEST_JOBS) if image_id else []
        mine = [job for job in jobs if image_id in job.args["settings"]["ids"]]
        return {
            "repairs": list(map(_shown, pairs)),
            "counts": count_of_repairs(catalog),
            "job": _job_shown(max(mine, key=lambda job: job.created, default=None)),
        }


def decide_repairs(workspace: Workspace, ids: Sequence[str], accept: bool, actor: str) -> int:
    """Accept or reject proposed repairs; returns their number. An accepted one is an image of the catalog.

    Raises `NotFound`, and `Conflict` where one was decided before; then none is changed.
    """
    with workspace.catalog() as catalog:
        for id in dict.fromkeys(ids):
            if catalog.images.get(id).source != REPAIRED:
                raise Conflict(f"image {id!r} is no repair")
            catalog.images.decide(id, "active" if accept else "refused")
            action = "repair.accept" if accept else "repair.reject"
            catalog.audit.add(AuditEvent(actor=actor, action=action, subject=id))
        catalog.commit()
    return len(dict.fromkeys(ids))


def _shown(pair: RepairPair) -> dict[str, Any]:
    repaired, how = pair.repaired, pair.repaired.settings.get(REPAIRED, {})
    taken = [each for each in how.get("regions", ()) if each["draw"] is not None]
    return {
        "id": repaired.id,
        "original": pair.original.id if pair.original else None,
        "prompt": repaired.prompt,
        "height": repaired.height,
        "width": repaired.width,
        "created": repaired.created,
        "generator": how.get("generator"),
        "detector": how.get("detector"),
        "regions": len(taken),
        "before": max((each["before"] for each in taken), default=None),
        "after": max((each["after"] for each in taken), default=None),
    }


def _job_shown(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    why = next(iter(job.result.get("refused_images", ())), "")
    return {
        "id": job.id,
        "state": job.state,
        "open": job.state in OPEN,
        "progress": job.progress,
        "error": job.error,
        "counts": {name: job.result.get(name, 0) for name in ("repaired", "unchanged", "refused", "regions")},
        "refused": why.partition(": ")[2],
        "notes": job.result.get("notes", []),
    }
