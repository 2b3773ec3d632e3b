"""Handlers of jobs outside rounds, by kind."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import STAGE_JOB
from pipelines.runtime.context import Context, Result
from pipelines.runtime.loading import import_object

Handler = Callable[[Context, dict[str, Any]], Result]


def import_job(context: Context, args: dict[str, Any]) -> Result:
    """Import a registered folder; the counts, and the first of what was refused."""
    from pipelines.services.exchange.datasets import import_data
    from pipelines.services.exchange.uploads import request_of, shown_result

    found, problems = import_data(context.workspace, request_of(args), report=context.report)
    return {**shown_result(found), "problems": problems.name if problems else ""}


def backup_job(context: Context, args: dict[str, Any]) -> Result:
    """Write the catalog and all blobs to a new file in the workspace's `backups/`; `to` and `keep` are those
    of a scheduled backup."""
    from pipelines.services.admin.maintenance import back_up

    to, keep = str(args.get("to", "")), args.get("keep")
    backup = back_up(context.workspace, report=context.report, to=to, keep=keep)
    return {"path": str(backup.path), "bytes": backup.bytes, "damaged": list(backup.damaged)}


def restore_job(context: Context, args: dict[str, Any]) -> Result:
    """Restore a backup into a new folder beside the workspace, or with `check` only prove that it can be."""
    from pipelines.services.admin.backups import prove_backup, restore_beside

    if args.get("check"):
        return {"path": prove_backup(context.workspace, args["file"], context.report)}
    return {"path": str(restore_beside(context.workspace, args["file"], context.report))}


def pull_job(context: Context, args: dict[str, Any]) -> Result:
    """Pull the labels of a pushed Label Studio project; the token is read from the environment."""
    from pipelines.services.exchange.label_studio import pull_labels

    with context.workspace.catalog(read_only=True) as catalog:
        endpoint = catalog.endpoints.get(args["endpoint"])
    project = str(endpoint.settings["project"])
    return asdict(pull_labels(context.workspace, project, endpoint.location, report=context.report))


def register_job(context: Context, args: dict[str, Any]) -> Result:
    """Register a detector or generator of a location that an admin allowed; its id and name."""
    from pipelines.services.standalone.registration import register_model

    return register_model(context.workspace, **args)


def features_job(context: Context, args: dict[str, Any]) -> Result:
    """Compute the features of images that have none."""
    from pipelines.jobs.compute_embeddings import compute_features

    return compute_features(context)


def dynamics_job(context: Context, args: dict[str, Any]) -> Result:
    """Plot the score dynamics of one generated image at a pixel (x, y)."""
    from pipelines.detectors.dynamics_charts import chart_dynamics

    return chart_dynamics(context, args["image"], tuple(args["point"]))


MODULES = {
    "measure": "pipelines.jobs.train_detector:measure_job",
    "map": "pipelines.jobs.map_images:map_job",
    "play": "pipelines.jobs.play_sampling:play_job",
    "retrain": "pipelines.jobs.train_detector:retrain_job",
    "treat": "pipelines.jobs.treat_generator:treat_job",
    "dreambooth": "pipelines.jobs.learn_instance:learn_job",
    "compare": "pipelines.jobs.compare_generators:compare_job",
    "refine": "pipelines.jobs.refine_generator:refine_job",
    "diagnose": "pipelines.jobs.selections:diagnose_job",
    "categorize": "pipelines.jobs.selections:categorize_job",
    "mine": "pipelines.jobs.selections:mine_job",
    "pseudo-label": "pipelines.jobs.selections:pseudo_label_job",
    "inject": "pipelines.jobs.inject_images:inject_job",
    "repair": "pipelines.jobs.repair_images:repair_job",
    "demo": "pipelines.demo.data:prepare_job",
    "export": "pipelines.jobs.export_images:export_job",
}
"""Handlers that are imported when a job runs: a worker that only waits loads no torch."""


def deferred(spec: str) -> Handler:
    """A handler by "module:name", imported when it is called."""

    def handler(context: Context, args: dict[str, Any]) -> Result:
        result: Result = import_object(spec)(context, args)
        return result

    return handler


JOBS: dict[str, Handler] = {
    "import": import_job,
    "backup": backup_job,
    "restore": restore_job,
    "pull": pull_job,
    "features": features_job,
    "register": register_job,
    "dynamics": dynamics_job,
    **{kind: deferred(spec) for kind, spec in MODULES.items()},
}
"""Handlers by the kind of job."""


def handler_of(kind: str) -> Handler:
    """The handler of that kind. Raises `ConfigRefused` listing the known kinds."""
    if kind not in JOBS:
        raise ConfigRefused(f"there is no job of kind {kind!r}; kinds are {', '.join([STAGE_JOB, *JOBS])}")
    return JOBS[kind]
