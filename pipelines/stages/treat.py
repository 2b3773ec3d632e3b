"""Stage: treat the generator."""

from collections.abc import Sequence
from itertools import zip_longest

from dataengine.errors import ConfigRefused
from dataengine.records import digest
from dataengine.records.images import JUDGE, SURVEY, TREAT
from pipelines.generators.files import sampling_of
from pipelines.generators.treatment import TreatmentPlan, finished_result, run_treatment, tuning_for
from pipelines.runtime.context import Context, Result
from pipelines.runtime.open_detector import champion_version
from pipelines.runtime.round_data import prompts_of, recipe_of, results_of
from pipelines.stages.generate import SURVEY_STAGE, generators_of
from pipelines.stages.stage import Stage


def treat(context: Context, round_id: str) -> Result:
    """Train a LoRA against the champion, verify it in a fresh pipeline, register the treated generator."""
    if done := finished_result(context, digest("treatment", round_id)):
        return done
    recipe = recipe_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(generator_to_treat(context, round_id))
    prompts = [prompt.text for prompt in prompts_of(context, round_id, TREAT)]
    if not prompts:
        raise ConfigRefused(
            "The round has no training prompts to treat with; set write_prompts.treat_per_category above 0."
        )
    plan = TreatmentPlan(
        run=round_id,
        base=base,
        detector=champion_version(context),
        prompts=prompts,
        guarded=_guard_prompts(context, round_id, prompts),
        held_out=[prompt.text for prompt in prompts_of(context, round_id, JUDGE)],
        tuning=tuning_for(base, recipe.treat.tuning),
        sampling=sampling_of(base, recipe.generate),
        real_limit=recipe.treat.real_limit,
        real_scorer=recipe.treat.real_scorer,
        real_least=recipe.treat.real_least,
        attributes=recipe.judge.attributes,
        scorers=recipe.treat.scorers,
        round_id=round_id,
    )
    return run_treatment(context, plan, pausing=context.pausing)


def generator_to_treat(context: Context, round_id: str) -> str:
    """The generator that the recipe names, else the round's first that could be drawn with."""
    recipe = recipe_of(context, round_id)
    if recipe.treat.generator:
        return recipe.treat.generator
    skipped = results_of(context, round_id).get(SURVEY_STAGE.name, {}).get("skipped", {})
    known = generators_of(context, round_id, recipe, SURVEY)
    return next((each for each in known if each not in skipped), known[0])


def _guard_prompts(context: Context, round_id: str, treated: Sequence[str]) -> list[str]:
    """Survey prompts that are not trained on, categories in turn; training prompts if there are no others."""
    by_category: dict[str | None, list[str]] = {}
    for prompt in prompts_of(context, round_id, SURVEY):
        if prompt.text not in treated:
            by_category.setdefault(prompt.category, []).append(prompt.text)
    turns = zip_longest(*by_category.values())
    return [text for turn in turns for text in turn if text is not None] or list(treated)


def _found(result: Result) -> str:
    if result["treated"] is None:
        return f"No checkpoint kept: {result['stopped']}"
    return f"Kept update {result['kept']} of {result['updates']}; {result['stopped']}"


STAGE = Stage(
    name="treat",
    title="treat the generator",
    part="treatment",
    section="treat",
    takes="a generator, the champion, training prompts",
    found=_found,
    work=treat,
)
