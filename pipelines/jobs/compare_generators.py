"""Job: generate the same prompts and seeds with two generators, and compare the images."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import GeneratorVersion, threshold_of
from dataengine.records.images import COMPARED
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from pipelines.config import ComparisonRun
from pipelines.detectors.predict import predict
from pipelines.generators.comparison import Pair
from pipelines.generators.measures import MeasuredPairs, measure_pairs
from pipelines.jobs.treat_generator import BATCH, generate_held_out
from pipelines.runtime.context import Context, Result


def compare_job(context: Context, args: dict[str, Any]) -> Result:
    """Generate prompts with and without a treatment, with the same seeds, and predict both with its
    detector."""
    with context.workspace.catalog(read_only=True) as catalog:
        treatment = catalog.treatments.get(args["treatment"])
        versions = [catalog.generators.get(id) for id in (treatment.generator_id, treatment.treated_id or "")]
    sampling = TreatmentConfig.model_validate(treatment.config).sampling
    pairs = draw_pairs(context, versions, args["prompts"], args["seeds"], sampling)
    for side in ("before", "after"):
        predict(context, treatment.detector_id, [getattr(pair, side) for pair in pairs], BATCH)
    return {"pairs": len(pairs)}


def compare_generators(
    context: Context, run: ComparisonRun, prompts: Mapping[str, Mapping[str, str]]
) -> MeasuredPairs:
    """Draw the prompts, given with their columns, by both generators, and measure the pairs. Images that
    were drawn before are used again. Raises `ConfigRefused` for generators that draw different sizes."""
    with context.workspace.catalog(read_only=True) as catalog:
        versions = [catalog.generators.get(id) for id in (run.before, run.after)]
        detector = catalog.detectors.get(run.detector)
    pairs = draw_pairs(context, versions, list(prompts), run.seeds, run.sampling)
    sizes = [f"{image.height}×{image.width}" for image in (pairs[0].before, pairs[0].after)]
    if sizes[0] != sizes[1]:
        raise ConfigRefused(
            f"{versions[0].name} draws {sizes[0]} pixels and {versions[1].name} {sizes[1]}; pairs must have "
            "one size: set sampling.height and sampling.width"
        )
    before, after = (
        predict(context, detector.id, [getattr(pair, side) for pair in pairs], BATCH)
        for side in ("before", "after")
    )
    columns = [prompts[pair.before.prompt] for pair in pairs]
    return measure_pairs(context, pairs, (before, after), threshold_of(detector), run.measures, columns)


def draw_pairs(
    context: Context,
    versions: Sequence[GeneratorVersion],
    prompts: Sequence[str],
    seeds: int,
    sampling: SamplingConfig,
) -> list[Pair]:
    """Images of the prompts by two generators, with the same seeds; missing ones are drawn and stored."""
    sides = [generate_held_out(context, version, prompts, seeds, sampling, COMPARED) for version in versions]
    return [Pair(before=sides[0][key], after=sides[1][key]) for key in sides[0]]
