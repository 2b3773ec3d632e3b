"""Write prompts: find hard categories and write prompts for them (DiffDoctor, Sec. 3.2).

Input: the survey's highest confidences by category. Output: a verdict on every category (DiffDoctor);
prompts for generating hard cases, for treating, and, held out from these, for judging. Cost: a
bootstrap, and what the prompt writer costs (a grammar nothing, an LLM a few minutes).
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict

from dataengine.curation.evidence import category_evidence
from dataengine.curation.hard_categories import CategoryVerdict, hard_categories, scaled_to
from dataengine.records import HardCategory, Prompt, threshold_of
from dataengine.records.images import HARD, JUDGE, SURVEY, TREAT
from pipelines.config import WritePromptsConfig
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import fresh_seed, images_of, prompts_of, recipe_of, results_of
from pipelines.stages.stage import Stage


def write_prompts(context: Context, round_id: str) -> Result:
    """Test the categories, then write prompts for the hard ones. Existing prompts are kept."""
    config = recipe_of(context, round_id).write_prompts
    seen = _survey_confidences(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        detector = catalog.detectors.get(results_of(context, round_id)["diagnose"]["detector"])
    statistic = scaled_to(config.statistic, threshold_of(detector))
    verdicts = hard_categories(_over_generators(seen), statistic)
    _record(context, round_id, verdicts)
    hard = sorted(found.category for found in verdicts if found.verdict == "hard")
    easy = sorted({found.category for found in verdicts} - set(hard))
    used = {prompt.text for prompt in prompts_of(context, round_id, SURVEY)}
    judged = _write(context, round_id, JUDGE, _counts(hard, easy, config, JUDGE), used)
    written = {
        purpose: len(_write(context, round_id, purpose, _counts(hard, easy, config, purpose), set(judged)))
        for purpose in (HARD, TREAT)
    }
    return {
        "hard": hard,
        "easy": easy,
        "statistics": {found.category: round(found.statistic, 4) for found in verdicts},
        "evidence": [asdict(row) for row in category_evidence(seen, config.statistic.minimum)],
        "prompts": {JUDGE: len(judged), **written},
    }


def _survey_confidences(context: Context, round_id: str) -> dict[tuple[str, str], list[float]]:
    """The highest confidence in each survey image, by category and generator."""
    images = {image.id: image for image in images_of(context, round_id, SURVEY)}
    detector = results_of(context, round_id)["diagnose"]["detector"]
    with context.workspace.catalog(read_only=True) as catalog:
        predictions = catalog.predictions.of(detector, images)
    seen: dict[tuple[str, str], list[float]] = {}
    for found in predictions:
        image = images[found.image_id]
        seen.setdefault((image.category or "other", image.generator_id or "imported"), []).append(found.max)
    return seen


def _over_generators(seen: Mapping[tuple[str, str], list[float]]) -> dict[str, list[float]]:
    by_category: dict[str, list[float]] = {}
    for (category, _), values in seen.items():
        by_category.setdefault(category, []).extend(values)
    return by_category


def _record(context: Context, round_id: str, verdicts: list[CategoryVerdict]) -> None:
    kept = [
        HardCategory(
            round_id=round_id,
            category=found.category,
            images=found.images,
            statistic=found.statistic,
            limit=1.0 if found.limit is None else found.limit,
            hard=found.verdict == "hard",
        )
        for found in verdicts
    ]
    with context.workspace.catalog() as catalog:
        catalog.hard.record(round_id, kept)
        catalog.commit()


def _counts(hard: list[str], easy: list[str], config: WritePromptsConfig, purpose: str) -> dict[str, int]:
    """How many prompts each category gets for a purpose."""
    for_hard, for_easy = {
        HARD: (config.hard_per_category, 0),
        TREAT: (config.treat_per_category, config.treat_easy_per_category),
        JUDGE: (config.judge_per_category, config.judge_easy_per_category),
    }[purpose]
    counts = dict.fromkeys(hard, for_hard) | dict.fromkeys(easy, for_easy)
    return {category: count for category, count in counts.items() if count}


def _write(
    context: Context, round_id: str, purpose: str, counts: dict[str, int], avoid: Collection[str]
) -> list[str]:
    """The round's prompts of a purpose; written once, all together."""
    if written := prompts_of(context, round_id, purpose):
        return [prompt.text for prompt in written]
    recipe = recipe_of(context, round_id)
    prompts: list[Prompt] = []
    for index, (category, count) in enumerate(sorted(counts.items())):
        context.report(index, len(counts), f"prompts for {category}")
        seed = fresh_seed(context, round_id, recipe.generate.seed, purpose, category)
        texts = context.models.write_prompts(category, count, seed, avoid, recipe.writer, recipe.writing)
        prompts += [
            Prompt(
                round_id=round_id, purpose=purpose, index=len(prompts) + place, text=text, category=category
            )
            for place, text in enumerate(texts)
        ]
    fail_point(f"write_prompts:{purpose}")
    with context.workspace.catalog() as catalog:
        catalog.prompts.add_many(prompts)
        catalog.commit()
    return [prompt.text for prompt in prompts]


STAGE = Stage(
    name="write_prompts",
    title="write prompts for hard categories",
    part="survey",
    section="write_prompts",
    takes="confidence by category",
    found=lambda result: (
        f"Hard categories: {', '.join(result['hard']) or 'none'}; {sum(result['prompts'].values())} prompts"
    ),
    work=write_prompts,
)
