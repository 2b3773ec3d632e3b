"""Handlers of jobs outside rounds, by kind."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import STAGE_JOB
from pipelines.runtime.context import Context, Result


def import_job(context: Context, args: dict[str, Any]) -> Result:
    """Import images from a registered folder."""
    from pipelines.exchange.readers.folders import import_folder

    return asdict(import_folder(context.workspace, report=context.report, **args))


def backup_job(context: Context, args: dict[str, Any]) -> Result:
    """Write the catalog and all blobs to a new file in the workspace's `backups/`; `to` and `keep` are those
    of a scheduled backup."""
    from pipelines.services.admin.maintenance import back_up

    to, keep = str(args.get("to", "")), args.get("keep")
    backup = back_up(context.workspace, report=context.report, to=to, keep=keep)
    return {"path": str(backup.path), "bytes": backup.bytes, "damaged": list(backup.damaged)}


def pull_job(context: Context, args: dict[str, Any]) -> Result:
    """Pull the labels of a pushed Label Studio project; the token is read from the environment."""
    from pipelines.services.exchange.label_studio import pull_labels

    with context.workspace.catalog(read_only=True) as catalog:
        endpoint = catalog.endpoints.get(args["endpoint"])
    project = str(endpoint.settings["project"])
    return asdict(pull_labels(context.workspace, project, endpoint.location, report=context.report))


def features_job(context: Context, args: dict[str, Any]) -> Result:
    """Compute the champion's encoder features of images that have none."""
    from pipelines.jobs.compute_embeddings import compute_features

    return compute_features(context)


def retrain_job(context: Context, args: dict[str, Any]) -> Result:
    """Retrain a detector outside a round."""
    from pipelines.jobs.train_detector import retrain_job

    return retrain_job(context, args)


def treat_job(context: Context, args: dict[str, Any]) -> Result:
    """Treat a generator outside a round."""
    from pipelines.jobs.treat_generator import treat_job

    return treat_job(context, args)


def refine_job(context: Context, args: dict[str, Any]) -> Result:
    """Self-refining training of a generator on real images."""
    from pipelines.jobs.refine_generator import refine_job

    return refine_job(context, args)


def compare_job(context: Context, args: dict[str, Any]) -> Result:
    """Generate prompts with and without a treatment."""
    from pipelines.jobs.compare_generators import compare_job

    return compare_job(context, args)


def dynamics_job(context: Context, args: dict[str, Any]) -> Result:
    """Plot the score dynamics of one generated image at a pixel (x, y)."""
    from pipelines.detectors.dynamics_charts import chart_dynamics

    return chart_dynamics(context, args["image"], tuple(args["point"]))


def diagnose_job(context: Context, args: dict[str, Any]) -> Result:
    """Predict the maps of selected images that a detector has not seen."""
    from pipelines.jobs.selections import diagnose_job

    return diagnose_job(context, args)


def categorize_job(context: Context, args: dict[str, Any]) -> Result:
    """Assign categories to selected images that have none."""
    from pipelines.jobs.selections import categorize_job

    return categorize_job(context, args)


def mine_job(context: Context, args: dict[str, Any]) -> Result:
    """Queue the most informative of the selected images for annotators."""
    from pipelines.jobs.selections import mine_job

    return mine_job(context, args)


def pseudo_label_job(context: Context, args: dict[str, Any]) -> Result:
    """Make a detector's maps the labels of selected images."""
    from pipelines.jobs.selections import pseudo_label_job

    return pseudo_label_job(context, args)


JOBS: dict[str, Callable[[Context, dict[str, Any]], Result]] = {
    "import": import_job,
    "backup": backup_job,
    "pull": pull_job,
    "features": features_job,
    "dynamics": dynamics_job,
    "retrain": retrain_job,
    "treat": treat_job,
    "compare": compare_job,
    "refine": refine_job,
    "diagnose": diagnose_job,
    "categorize": categorize_job,
    "mine": mine_job,
    "pseudo-label": pseudo_label_job,
}
"""Handlers by the kind of job."""


def handler_of(kind: str) -> Callable[[Context, dict[str, Any]], Result]:
    """The handler of that kind. Raises `ConfigRefused` listing the known kinds."""
    if kind not in JOBS:
        raise ConfigRefused(f"there is no job of kind {kind!r}; kinds are {', '.join([STAGE_JOB, *JOBS])}")
    return JOBS[kind]
