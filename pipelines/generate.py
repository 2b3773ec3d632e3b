"""Generate: the generators draw the round's prompts.

Input: prompts of one purpose ("survey", "hard", "judge"), generators, seeds. Output: images in the catalog,
each with its prompt, generator, seed and settings; their split is decided here, once, by prompt and seed.
Cost: one sampling run an image; after a crash a shard is repeated, and images that exist are skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import GeneratorVersion, Image, Prompt, Split, image_id, prompt_group, split_of
from pipelines.config import GenerateConfig, RoundRecipe
from pipelines.context import Context, Result
from pipelines.exchange.images import thumbnail
from pipelines.failpoint import fail_point
from pipelines.generator_files import brought_here, reads_prompts, stored_as
from pipelines.pictures import encode_png
from pipelines.steering import Steered, steered
from pipelines.steps import (
    HARD,
    JUDGE,
    SURVEY,
    Shard,
    fresh_seed,
    prompts_of,
    recipe_of,
    results_of,
    run_all,
    slices,
)

if TYPE_CHECKING:
    from dataengine.treatment.families import GeneratorFamily


@dataclass(frozen=True, kw_only=True)
class Task:
    """One image to draw."""

    prompt: str
    seed: int
    split: Split
    category: str | None = None
    """What its prompt was written for; none where it is asked of the image itself."""


def generate(context: Context, round_id: str, purpose: str = SURVEY) -> Result:
    """Draw everything of one purpose that is not there yet."""
    answers = run_all(context, round_id, run_shard, shards(context, round_id, purpose))
    return finish(context, round_id, answers)


def shards(context: Context, round_id: str, purpose: str = SURVEY) -> list[Shard]:
    """Consecutive parts of what each generator has to draw."""
    recipe = recipe_of(context, round_id)
    if purpose == SURVEY:
        _write_survey_prompts(context, round_id, recipe)
    count = len(_tasks(context, round_id, recipe, purpose))
    return [
        {"purpose": purpose, "generator": generator, "start": start, "stop": stop}
        for generator in generators_of(context, round_id, recipe, purpose)
        for start, stop in slices(count, recipe.generate.shard)
    ]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Draw one part; images that the catalog holds already are left out."""
    recipe = recipe_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(shard["generator"])
        drawn = catalog.images.find(round_id=round_id, generator_id=version.id)
    there = {(image.prompt, image.seed) for image in drawn if image.purpose == shard["purpose"]}
    part = _tasks(context, round_id, recipe, shard["purpose"])[shard["start"] : shard["stop"]]
    missing = [task for task in part if (task.prompt, task.seed) not in there]
    if missing:
        family, config = open_generator(context, version), recipe.generate
        steering = steered(context, config.model_dump(mode="json"), family)
        for start, stop in slices(len(missing), config.sampling.batch):
            context.report(start, len(missing), f"{version.name} draws")
            tasks = missing[start:stop]
            draw(context, family, version, tasks, config, shard["purpose"], round_id, steering)
    return {"generator": version.id, "images": len(part), "drawn": len(missing)}


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """How many images each generator has drawn."""
    by_generator: dict[str, int] = {}
    for answer in answers:
        by_generator[answer["generator"]] = by_generator.get(answer["generator"], 0) + answer["images"]
    return {"images": sum(by_generator.values()), "by_generator": by_generator}


def open_generator(
    context: Context, version: GeneratorVersion, lora: Path | None = None
) -> "GeneratorFamily":
    """A registered generator with its own LoRA, or with `lora` instead, loaded as its settings ask.

    Its own LoRA counts with the strength that the generator was registered at.
    """
    location = brought_here(context.workspace, version)
    family = context.tools.open_generator(location, lora or lora_folder(context, version), stored_as(version))
    strength = version.settings.get("strength")
    if strength is not None and lora is None:
        from dataengine.treatment.sharing import set_strength

        set_strength(family, strength)
    return family


def lora_folder(context: Context, version: GeneratorVersion) -> Path | None:
    """Where a treated generator's LoRA lies on this machine, if it has one."""
    return context.workspace.checkpoints.fetch(version.lora) if version.lora else None


def generators_of(context: Context, round_id: str, recipe: RoundRecipe, purpose: str) -> tuple[str, ...]:
    """Who draws: for judging the treated generator and its base, else those that the recipe names, or all
    that read prompts. Raises `ConfigRefused` for none and for one that is not registered."""
    if purpose == JUDGE:
        treated = results_of(context, round_id)["treat"]
        return treated["generator"], treated["treated"]
    with context.workspace.catalog(read_only=True) as catalog:
        begun = catalog.rounds.get(round_id).created
        # What is registered later, as by this round's treatment, draws from the next round on.
        known = {one.id: one for one in catalog.generators.list() if one.created <= begun}
    reading = tuple(one.id for one in known.values() if reads_prompts(context.workspace, one))
    chosen = recipe.generate.generators or reading
    if known and not chosen:
        raise ConfigRefused(
            f"No generator of this workspace reads prompts; name those that shall draw without "
            f"(generate.generators, of {list(known)}), or register another: clinic generators --add FOLDER."
        )
    if not chosen or not set(chosen) <= set(known):
        raise ConfigRefused(
            f"The recipe draws with {list(chosen)}, and this workspace knows {list(known)}. "
            "Register the generator first: clinic generators --add FOLDER."
        )
    return chosen


def _write_survey_prompts(context: Context, round_id: str, recipe: RoundRecipe) -> None:
    config = recipe.generate
    prompts = [
        Prompt(round_id=round_id, purpose=SURVEY, index=i, text=t) for i, t in enumerate(config.prompts)
    ]
    seed = fresh_seed(context, round_id, config.seed, SURVEY)
    for category in config.categories:
        texts = context.tools.write_prompts(
            category, config.prompts_per_category, seed, (), recipe.writer, recipe.writing
        )
        prompts += [
            Prompt(round_id=round_id, purpose=SURVEY, index=len(prompts) + i, text=text, category=category)
            for i, text in enumerate(texts)
        ]
    if not prompts:
        raise ConfigRefused("The recipe names neither survey prompts nor categories to write them for.")
    with context.workspace.catalog() as catalog:
        catalog.prompts.add_many(prompts)
        catalog.commit()


def _tasks(context: Context, round_id: str, recipe: RoundRecipe, purpose: str) -> list[Task]:
    repeats = {
        SURVEY: recipe.generate.seeds_per_prompt,
        HARD: recipe.write_prompts.seeds_per_prompt,
        JUDGE: recipe.write_prompts.judge_seeds,
    }[purpose]
    first = fresh_seed(context, round_id, recipe.generate.seed, "images", purpose)
    return [
        task_of(
            prompt.text,
            first + index * repeats + repeat,
            recipe.generate.validation,
            prompt.category if purpose == HARD else None,
        )
        for index, prompt in enumerate(prompts_of(context, round_id, purpose))
        for repeat in range(repeats)
    ]


def task_of(prompt: str, seed: int, validation: float, category: str | None = None) -> Task:
    """One image to draw; its split is that of its prompt and seed."""
    split = split_of(prompt_group(prompt, seed), validation)
    return Task(prompt=prompt, seed=seed, split=split, category=category)


def draw(
    context: Context,
    family: Any,
    version: GeneratorVersion,
    tasks: Sequence[Task],
    config: GenerateConfig,
    purpose: str,
    round_id: str | None = None,
    steering: Steered | None = None,
) -> None:
    """Draw one batch and keep it: blobs first, then the rows that name them.

    `steering` is what the config asks for with its models open; it is opened here where it is not given.
    """
    prompts, seeds = [task.prompt for task in tasks], [task.seed for task in tasks]
    steering = steering or steered(context, config.model_dump(mode="json"), family)
    steppers = steering.steppers(prompts, seeds)
    steps = {} if steppers is None else {"steppers": steppers}
    pixels = context.tools.generate(family, prompts, seeds, config.sampling, **steps)
    settings = config.sampling.model_dump(exclude={"batch"}, exclude_none=True) | steering.settings
    sha256s = context.workspace.blobs.put_many([encode_png(image) for image in pixels])
    thumbnails = context.workspace.blobs.put_many([thumbnail(image) for image in pixels])
    images = [
        Image(
            id=image_id(sha256, version.id, task.prompt, task.seed),
            sha256=sha256,
            height=image.shape[0],
            width=image.shape[1],
            prompt=task.prompt,
            category=task.category,
            generator_id=version.id,
            seed=task.seed,
            settings=settings,
            licence=version.licence,
            split=task.split,
            group=prompt_group(task.prompt, task.seed),
            round_id=round_id,
            purpose=purpose,
            thumbnail=small,
        )
        for task, image, sha256, small in zip(tasks, pixels, sha256s, thumbnails, strict=True)
    ]
    fail_point(f"generate:{purpose}")
    with context.workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()
