"""Data that the stages of a round share: recipe, results, seeds, prompts, images."""

from typing import Any

from dataengine.records import Image, Prompt, digest
from dataengine.records.images import IMPORTED, SURVEY
from pipelines.config import RoundRecipe
from pipelines.runtime.context import Context


def recipe_of(context: Context, round_id: str) -> RoundRecipe:
    """The recipe that the round was started with."""
    with context.workspace.catalog(read_only=True) as catalog:
        return RoundRecipe.model_validate(catalog.rounds.get(round_id).recipe)


def results_of(context: Context, round_id: str) -> dict[str, Any]:
    """Results of the round's finished stages, by stage."""
    with context.workspace.catalog(read_only=True) as catalog:
        return catalog.rounds.get(round_id).results


def fresh_seed(context: Context, round_id: str, seed: int, *use: str) -> int:
    """A seed below 2³⁰ for one use, derived from the recipe's seed and the number of earlier rounds."""
    with context.workspace.catalog(read_only=True) as catalog:
        rounds = sorted(catalog.rounds.list(), key=lambda each: (each.created, each.id))
    number = [each.id for each in rounds].index(round_id)
    return int(digest("seed", seed, number, *use, length=8), 16) % 2**30


def prompts_of(context: Context, round_id: str, purpose: str) -> list[Prompt]:
    """The round's prompts of one purpose, in order."""
    with context.workspace.catalog(read_only=True) as catalog:
        return sorted(catalog.prompts.of_round(round_id, purpose), key=lambda prompt: prompt.index)


def images_of(context: Context, round_id: str, *purposes: str) -> list[Image]:
    """The round's active images of these purposes, by id. A survey includes images imported before it."""
    with context.workspace.catalog(read_only=True) as catalog:
        started = catalog.rounds.get(round_id).created
        images = catalog.images.find(round_id=round_id, purpose=purposes, status="active")
        if SURVEY in purposes:
            imported = catalog.images.find(
                source=IMPORTED, purpose="", split=("train", "validation"), status="active"
            )
            images += [image for image in imported if image.created <= started]
    return sorted(images, key=lambda image: image.id)
