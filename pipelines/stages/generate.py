"""Stage: generate the round's survey images and hard cases."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from dataengine.errors import (
    ConfigRefused,
    Corrupt,
    InputRefused,
    ModelRefused,
    NonFinite,
    NotFound,
    out_of_memory,
    reason_of,
)
from dataengine.records import GeneratorVersion, Prompt
from dataengine.records.images import HARD, JUDGE, SURVEY
from pipelines.config import GenerateConfig, Part, RoundRecipe
from pipelines.generators.draw import GenerationTask, generate_batch, make_task, open_generator
from pipelines.generators.files import drawn_unasked
from pipelines.generators.guided_sampling import open_steering
from pipelines.runtime.context import Context, Result
from pipelines.runtime.round_data import fresh_seed, prompts_of, recipe_of, results_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.stages.stage import Sharded, Stage

BROKEN = (
    InputRefused,
    NotFound,
    Corrupt,
    NonFinite,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
)
"""Errors that speak against the generator; others end the shard, which is tried again."""


def shards(context: Context, round_id: str, purpose: str) -> list[Shard]:
    """Consecutive parts of what each generator has to generate."""
    recipe = recipe_of(context, round_id)
    if purpose == SURVEY:
        _write_survey_prompts(context, round_id, recipe)
    count = len(_tasks(context, round_id, recipe, purpose))
    return [
        {"purpose": purpose, "generator": generator, "start": start, "stop": stop}
        for generator in generators_of(context, round_id, recipe, purpose)
        for start, stop in shard_bounds(count, recipe.generate.shard)
    ]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Generate one part; images that the catalog already has are skipped."""
    recipe = recipe_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(shard["generator"])
        drawn = catalog.images.find(round_id=round_id, generator_id=version.id)
    existing = {(image.prompt, image.seed) for image in drawn if image.purpose == shard["purpose"]}
    part = _tasks(context, round_id, recipe, shard["purpose"])[shard["start"] : shard["stop"]]
    missing = [task for task in part if (task.prompt, task.seed) not in existing]
    try:
        _generate(context, round_id, version, missing, recipe.generate, shard["purpose"])
    except BROKEN as error:
        if out_of_memory(error):
            raise  # another moment or device may serve
        failed = {"name": version.name, "failed": reason_of(error)}
        return {"generator": version.id, "images": len(part) - len(missing), "drawn": 0, **failed}
    return {"generator": version.id, "images": len(part), "drawn": len(missing)}


def _generate(
    context: Context,
    round_id: str,
    version: GeneratorVersion,
    missing: Sequence[GenerationTask],
    config: GenerateConfig,
    purpose: str,
) -> None:
    if not missing:
        return
    family = open_generator(context, version)
    steering = open_steering(context, config.model_dump(mode="json"), family)
    for start, stop in shard_bounds(len(missing), config.sampling.batch):
        context.report(start, len(missing), f"generating with {version.name}")
        tasks = missing[start:stop]
        generate_batch(context, family, version, tasks, config, purpose, round_id, steering)


def finish(context: Context, round_id: str, answers: Sequence[Result], purpose: str) -> Result:
    """How many images each generator has generated, and which ones were skipped, with the reason.

    Raises `ModelRefused` if all failed, or one that is to be judged.
    """
    by_generator: dict[str, int] = {}
    skipped: dict[str, Result] = {}
    for answer in answers:
        by_generator[answer["generator"]] = by_generator.get(answer["generator"], 0) + answer["images"]
        if "failed" in answer:
            skipped[answer["generator"]] = {"name": answer["name"], "reason": answer["failed"]}
    none = skipped.keys() == by_generator.keys()
    if skipped and (none or purpose == JUDGE):
        raise ModelRefused(
            f"{'No generator' if none else 'Not every generator'} could be drawn with: {_in_words(skipped)}. "
            "Mend them, or take them off the lists: clinic generators --remove."
        )
    found = {"images": sum(by_generator.values()), "by_generator": by_generator}
    return found | ({"skipped": skipped} if skipped else {})


def _in_words(skipped: Mapping[str, Result]) -> str:
    return "; ".join(f"{each['name']} ({each['reason']})" for each in skipped.values())


def generators_of(context: Context, round_id: str, recipe: RoundRecipe, purpose: str) -> tuple[str, ...]:
    """The generators to use: for judging, the treated one and its base; else those in the recipe, or all
    untreated ones that read prompts. Raises `ConfigRefused` for none and for one that is not registered."""
    if purpose == JUDGE:
        treated = results_of(context, round_id)["treat"]
        return treated["generator"], treated["treated"]
    with context.workspace.catalog(read_only=True) as catalog:
        begun = catalog.rounds.get(round_id).created
        # Generators registered later, as by this round's treatment, are used from the next round on.
        known = {one.id: one for one in catalog.generators.offered() if one.created <= begun}
    unasked = tuple(one.id for one in known.values() if drawn_unasked(context.workspace, one))
    chosen = recipe.generate.generators or unasked
    if known and not chosen:
        raise ConfigRefused(
            "No registered generator reads prompts and is untreated. Name others in generate.generators "
            f"({', '.join(known)}), or register another: clinic generators --add FOLDER."
        )
    if not chosen:
        raise ConfigRefused(
            "This recipe needs a generator, and none is registered. "
            "Register one: clinic generators --add FOLDER."
        )
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigRefused(
            f"The recipe names generators that are removed or not registered: {', '.join(unknown)} "
            f"(registered: {', '.join(known) or 'none'}). "
            "Register them first: clinic generators --add FOLDER."
        )
    return chosen


def _write_survey_prompts(context: Context, round_id: str, recipe: RoundRecipe) -> None:
    config = recipe.generate
    prompts = [
        Prompt(round_id=round_id, purpose=SURVEY, index=i, text=t) for i, t in enumerate(config.prompts)
    ]
    seed = fresh_seed(context, round_id, config.seed, SURVEY)
    for category in config.categories:
        texts = context.models.write_prompts(
            category, config.prompts_per_category, seed, (), recipe.writer, recipe.writing
        )
        prompts += [
            Prompt(round_id=round_id, purpose=SURVEY, index=len(prompts) + i, text=text, category=category)
            for i, text in enumerate(texts)
        ]
    if not prompts:
        raise ConfigRefused("The recipe has neither survey prompts nor categories to write prompts for.")
    with context.workspace.catalog() as catalog:
        catalog.prompts.add_many(prompts)
        catalog.commit()


def _tasks(context: Context, round_id: str, recipe: RoundRecipe, purpose: str) -> list[GenerationTask]:
    repeats = {
        SURVEY: recipe.generate.seeds_per_prompt,
        HARD: recipe.write_prompts.seeds_per_prompt,
        JUDGE: recipe.write_prompts.judge_seeds,
    }[purpose]
    first = fresh_seed(context, round_id, recipe.generate.seed, "images", purpose)
    return [
        make_task(
            prompt.text,
            first + index * repeats + repeat,
            recipe.generate.validation,
            # A survey's images are categorised by what they show.
            None if purpose == SURVEY else prompt.category,
        )
        for index, prompt in enumerate(prompts_of(context, round_id, purpose))
        for repeat in range(repeats)
    ]


def _found(result: Result) -> str:
    by_generator = ", ".join(f"{count} by {name}" for name, count in result["by_generator"].items())
    skipped = f"; skipped {_in_words(result['skipped'])}" if result.get("skipped") else ""
    return f"{result['images']} images{f': {by_generator}' if by_generator else ''}{skipped}"


def generating(purpose: str) -> Sharded:
    """The work of generating a round's missing images of one purpose."""
    return Sharded(
        shards=partial(shards, purpose=purpose),
        run_shard=run_shard,
        finish=partial(finish, purpose=purpose),
    )


def _stage(name: str, purpose: str, title: str, part: Literal["survey"] | Part, takes: str) -> Stage:
    return Stage(
        name=name,
        title=title,
        part=part,
        section="generate",
        takes=takes,
        found=_found,
        work=generating(purpose),
    )


SURVEY_STAGE = _stage("generate", SURVEY, "generate survey images", "survey", "survey prompts")
HARD_STAGE = _stage("generate_hard", HARD, "generate hard cases", "hard", "prompts for the hard categories")
