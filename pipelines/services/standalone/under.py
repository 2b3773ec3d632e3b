"""Compare a LoRA with its base under the conditions that people draw under, into an output folder."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.records import DetectorVersion, GeneratorVersion, Report, no_report
from pipelines.services.images.work import run_here
from pipelines.services.model_card import under_section
from pipelines.services.standalone.comparison import (
    ComparisonRequest,
    begun,
    chosen_prompts,
    compared_models,
    notes_on,
    run_of,
    settings_of,
)
from pipelines.services.standalone.models import CLINIC_GENERATORS
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.runtime.context import Context

UNDER = "under"
"""Key of a treatment's result: the cells of its LoRA under other conditions."""
KEPT = ("limit", "prompts", "images", "cells", "held", "bad", "advice", "left_out")


def compare_under(
    request: ComparisonRequest,
    out: Path,
    *,
    second: Path | None = None,
    workspace: Path | None = None,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Measure every condition's cell and write report.json, cells.csv, under.html, examples, and a section
    for the model card below `out`; returns the report. In a named workspace the cells also come into the
    model card of the treatment that made the LoRA.

    Called again, it resumes. Raises as `comparison.compare`.
    """
    prompts = chosen_prompts(request)
    settings = settings_of(request, prompts)
    settings |= {"under": str(second.resolve()) if second else "no second LoRA"}
    with begun(out, "compare", settings, workspace, partial(compared_models, request)) as (opened, models):
        texts = [row.text for row in prompts]
        return compare_models_under(
            opened, models, request, texts, out, second=second, device=device, report=report
        )


def compare_models_under(
    workspace: Workspace,
    models: tuple[GeneratorVersion, GeneratorVersion, DetectorVersion],
    request: ComparisonRequest,
    prompts: Sequence[str],
    out: Path,
    *,
    second: Path | None = None,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """As `compare_under`, of generators before and after and a detector that the workspace holds, into a
    folder that the caller keeps apart."""
    from pipelines.jobs.compare_under import compare_under as job
    from pipelines.reports.under import EXAMPLES, write_under

    before, after, detector = models
    run = run_of(request, *models)
    heading = {
        "before": before.name,
        "after": after.name,
        "detector": detector.name,
        "prompts_from": Path(request.prompts).name,
        "notes": notes_on(detector, request.before in CLINIC_GENERATORS),
    }

    def work(context: "Context") -> dict[str, Any]:
        result = job(context, run, prompts, out / EXAMPLES, second)
        _record(workspace, after, {name: result[name] for name in KEPT} | {"detector": detector.name})
        return write_under(out, heading, result, under_section(result | {"detector": detector.name}))

    return run_here(workspace, device, report, work)


def _record(workspace: Workspace, version: GeneratorVersion, result: dict[str, Any]) -> None:
    """Store the cells with the treatment that made the generator, if there is one."""
    if version.treatment_id is None:
        return
    with workspace.catalog() as catalog:
        treatment = catalog.treatments.get(version.treatment_id)
        known = replace(treatment, result={**treatment.result, UNDER: result})
        catalog.treatments.finish(known.id, known.result, known.treated_id)
        catalog.commit()
