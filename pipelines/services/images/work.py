"""Diagnose, categorize, mine and pseudo-label any selection of images, or inject artifacts into it, here or
on a worker."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dataengine.api.models import CLINIC_DETECTOR
from dataengine.curation.config import VqaConfig
from dataengine.records import CLINIC as CLINIC_DOMAIN
from dataengine.records import Job, Report, no_report
from pipelines.config import CLINIC
from pipelines.selections.config import (
    CategorizationRun,
    DiagnosisRun,
    ImageQuery,
    InjectionRun,
    MiningRun,
    PseudoLabelRun,
    SelectionRun,
)
from pipelines.services.categories import category_report
from pipelines.services.jobs import request_job
from pipelines.services.queue import fresh_id
from storage.queries.images import conditions_of
from storage.queries.selections import count_of_selection, not_predicted_by, uncategorised
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.runtime.context import Context

KINDS: dict[type[SelectionRun], str] = {
    DiagnosisRun: "diagnose",
    CategorizationRun: "categorize",
    MiningRun: "mine",
    PseudoLabelRun: "pseudo-label",
    InjectionRun: "inject",
}
"""The kind of job that does each work."""
COUNTED = 5
"""Detectors for which a form says how many images they have not seen."""


def diagnose_images(
    workspace: Workspace, run: DiagnosisRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.selections.diagnose_images`."""
    from pipelines.jobs import selections

    return run_here(workspace, device, report, lambda context: selections.diagnose_images(context, run))


def categorize_images(
    workspace: Workspace, run: CategorizationRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.selections.categorize_images`."""
    from pipelines.jobs import selections

    return run_here(workspace, device, report, lambda context: selections.categorize_images(context, run))


def mine_images(
    workspace: Workspace, run: MiningRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.selections.mine_images`."""
    from pipelines.jobs import selections

    queue_round = fresh_id("mine")
    return run_here(
        workspace, device, report, lambda context: selections.mine_images(context, run, queue_round)
    )


def pseudo_label_images(
    workspace: Workspace, run: PseudoLabelRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.selections.pseudo_label_images`."""
    from pipelines.jobs import selections

    return run_here(workspace, device, report, lambda context: selections.pseudo_label_images(context, run))


def inject_images(
    workspace: Workspace, run: InjectionRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """See `pipelines.jobs.inject_images.inject_images`."""
    from pipelines.jobs import inject_images

    return run_here(workspace, device, report, lambda context: inject_images.inject_images(context, run))


def request_work(workspace: Workspace, run: SelectionRun, actor: str = "") -> Job:
    """Queue the work for a worker; its detector is fixed now.

    Raises `NotFound` for an empty selection and an unknown detector or generator, `ConfigRefused` without any
    detector, `InputRefused` for an injection into images that are not known to be clean.
    """
    from pipelines.jobs.inject_images import clean_selection, redrawing_generator
    from pipelines.selections.pages import selected

    if isinstance(run, InjectionRun):
        redrawing_generator(workspace, run)
        clean_selection(workspace, run.images)
    else:
        selected(workspace, run.images)
    if isinstance(run, DiagnosisRun | MiningRun | PseudoLabelRun):
        run = run.model_copy(update={"detector": _detector(workspace, run.detector)})
    kind = KINDS[type(run)]
    args = {"run": fresh_id(kind), "settings": run.model_dump(mode="json")}
    return request_job(workspace, kind, args, actor)


def work_choices(workspace: Workspace, query: ImageQuery) -> dict[str, Any]:
    """What a form offers for work on these images: how many there are, detectors (the shipped one where none
    of its kind is registered), VQA models, generators and snapshots, the newest first."""
    with workspace.catalog(read_only=True) as catalog:
        conditions = conditions_of(catalog, query.filter())
        count = count_of_selection(catalog, conditions)
        known = list(reversed(catalog.detectors.offered()))
        known.sort(key=lambda one: one.role != "champion")
        detectors: list[dict[str, Any]] = [
            {
                "id": one.id,
                "name": one.name,
                "champion": one.role == "champion",
                "left": count_of_selection(catalog, [*conditions, not_predicted_by(one.id)])
                if place < COUNTED
                else None,
            }
            for place, one in enumerate(known)
        ]
        if all(one.domain != CLINIC_DOMAIN for one in known):
            name = "clinic (shipped, for the demo's drawings; a first look at others)"
            detectors.append({"id": CLINIC_DETECTOR, "name": name, "champion": False, "left": count})
        vqa = [{"id": one.location, "name": one.name} for one in catalog.endpoints.of_kind("vqa")]
        return {
            "count": count,
            "uncategorised": count_of_selection(catalog, [*conditions, uncategorised()]),
            "detectors": detectors,
            "vqa": [*vqa, {"id": CLINIC, "name": "clinic (shipped, for the demo's drawings)"}],
            "categories": VqaConfig().categories,
            "generators": [{"id": o.id, "name": o.name} for o in reversed(catalog.generators.offered())],
            "snapshots": [
                {"id": one.id, "created": one.created} for one in reversed(catalog.snapshots.list())
            ],
        }


def hard_categories(
    workspace: Workspace, query: ImageQuery, detector_id: str | None = None
) -> dict[str, Any]:
    """Every category's figures and verdict over the selected images (see `category_report`).

    Raises `NotFound` for an empty selection and an unknown detector, `ConfigRefused` without any detector.
    """
    from pipelines.selections.pages import selected

    conditions, _ = selected(workspace, query)
    detector = _detector(workspace, detector_id)
    with workspace.catalog(read_only=True) as catalog:
        return category_report(catalog, detector, conditions)


def _detector(workspace: Workspace, detector_id: str | None) -> str:
    """The id of the named detector, or of the champion; "clinic" stays, since a worker registers it."""
    if detector_id == CLINIC_DETECTOR:
        return detector_id
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import real_models
    from pipelines.selections.pages import detector_of

    return detector_of(Context(workspace, real_models()), detector_id).id


def run_here(
    workspace: Workspace, device: str | None, report: Report, work: "Callable[[Context], dict[str, Any]]"
) -> dict[str, Any]:
    """Work in this process, with the real models, while no other process uses the device."""
    from pipelines.runtime.context import real_context
    from pipelines.runtime.devices import device_lock

    context = real_context(workspace, device, report)
    with device_lock(context.models.device, workspace.path, lambda message: report(0, 1, message)):
        return work(context)
