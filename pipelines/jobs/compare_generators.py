"""Job: generate the same prompts and seeds with two generators."""

from typing import Any

from dataengine.records.images import COMPARED
from dataengine.treatment.config import TreatmentConfig
from pipelines.config import TreatmentRun
from pipelines.detectors.predict import predict
from pipelines.jobs.treat_generator import BATCH, generate_held_out
from pipelines.runtime.context import Context, Result


def compare_job(context: Context, args: dict[str, Any]) -> Result:
    """Generate prompts with and without a treatment, with the same seeds, and predict both with its
    detector."""
    with context.workspace.catalog(read_only=True) as catalog:
        treatment = catalog.treatments.get(args["treatment"])
        versions = [catalog.generators.get(id) for id in (treatment.generator_id, treatment.treated_id or "")]
    tuning = TreatmentConfig.model_validate(treatment.config)
    plan = TreatmentRun(generator=treatment.generator_id, judge_seeds=args["seeds"], tuning=tuning)
    for version in versions:
        images = generate_held_out(context, plan, version, args["prompts"], COMPARED)
        predict(context, treatment.detector_id, list(images.values()), BATCH)
    return {"pairs": len(images)}
