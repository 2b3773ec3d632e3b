"""Train a detector in this process, as the job on a worker does."""

from collections.abc import Sequence
from typing import Any

from dataengine.errors import NotFound
from dataengine.records import DetectorVersion, Report, digest, no_report
from pipelines import recipes
from pipelines.config import TrainingRun
from pipelines.detectors.start import choose_start
from pipelines.services import preflight
from pipelines.services.preflight import Check
from pipelines.services.training.presets import training_presets
from storage.catalog import Catalog
from storage.workspace import Workspace


def plan_training(workspace: Workspace, recipe: str = "", start: str = "", seed: int = 0) -> TrainingRun:
    """A training by the recipe of that name; without one, by the champion's settings, or for
    photographs where it has none. `start` is what `TrainingRun.start` says; "" leaves the recipe's.

    Raises `NotFound` for an unknown recipe.
    """
    if recipe:
        plan = recipes.training_named(recipe, seed)
    else:
        plan = TrainingRun.model_validate(next(iter(training_presets(workspace).values())))
        plan = plan.model_copy(update={"training": plan.training.model_copy(update={"seed": seed})})
    return plan.model_copy(update={"start": start}) if start else plan


def require_training(workspace: Workspace, plan: TrainingRun) -> list[str]:
    """What to know before a training in this process. Raises `ConfigRefused` when a check fails."""
    preflight.require(preflight.training_checks(workspace, plan))
    return [check.text for check in training_warnings(workspace, plan, ("worker",))]


def training_warnings(workspace: Workspace, plan: TrainingRun, ignored: Sequence[str] = ()) -> list[Check]:
    """The checks of a training that did not pass but let it begin, such as a licence's limits."""
    checks = preflight.training_checks(workspace, plan)
    return [check for check in checks if check.verdict == "warn" and check.name not in ignored]


def train_detector(
    workspace: Workspace, plan: TrainingRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """Train in this process while no other uses the device; what `retrain_job` returns.

    Called again after an interruption with the same plan, it resumes with the same training set; once the
    detector is there, the next call trains another on what is labelled by then. Raises `ConfigRefused` when a
    check fails.
    """
    from pipelines.jobs.train_detector import retrain_job
    from pipelines.runtime.context import real_context
    from pipelines.runtime.devices import device_lock

    preflight.require(preflight.training_checks(workspace, plan))
    with workspace.catalog(read_only=True) as catalog:
        fixed = choose_start(catalog, plan).fixed_in(plan)
        run = _unfinished_run(catalog, fixed)
    context = real_context(workspace, device, report)
    with device_lock(context.models.device, workspace.path, lambda message: report(0, 1, message)):
        return retrain_job(context, {"run": run, "settings": fixed.model_dump(mode="json")})


def trained_detector(workspace: Workspace, result: dict[str, Any]) -> DetectorVersion:
    """The detector that a training made. Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.get(result["detector"])


def _unfinished_run(catalog: Catalog, plan: TrainingRun) -> str:
    """The id of the plan's first run that has no detector yet."""
    name, number = f"train-{digest(plan.model_dump_json())[:12]}", 1
    while _is_trained(catalog, run := f"{name}-{number}"):
        number += 1
    return run


def _is_trained(catalog: Catalog, run: str) -> bool:
    try:
        catalog.detectors.get(digest("detector", run, "retrain"))
    except NotFound:
        return False
    return True
