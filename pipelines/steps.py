"""What stages share: their recipe, the round's images and prompts, seeds, and shards run in turn."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, Prompt, digest
from pipelines.config import RoundRecipe
from pipelines.context import Context, Result

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector

Shard = dict[str, Any]
"""A part of a stage's work, as JSON: ids and positions only."""

SURVEY, HARD, TREAT, JUDGE = "survey", "hard", "treat", "judge"
"""Purposes of prompts and images. Treatment has prompts but keeps no images."""

IMPORTED = ("generated", "imported")
"""Sources of other makers' pictures, which carry no purpose."""


def recipe_of(context: Context, round_id: str) -> RoundRecipe:
    """The recipe that the round was started with."""
    with context.workspace.catalog(read_only=True) as catalog:
        return RoundRecipe.model_validate(catalog.rounds.get(round_id).recipe)


def results_of(context: Context, round_id: str) -> dict[str, Any]:
    """What the round's finished stages answered, by stage."""
    with context.workspace.catalog(read_only=True) as catalog:
        return catalog.rounds.get(round_id).results


def fresh_seed(context: Context, round_id: str, seed: int, *use: str) -> int:
    """A seed below 2³⁰ for one use, set by the recipe's seed and by how many rounds came before this one."""
    with context.workspace.catalog(read_only=True) as catalog:
        rounds = sorted(catalog.rounds.list(), key=lambda each: (each.created, each.id))
    number = [each.id for each in rounds].index(round_id)
    return int(digest("seed", seed, number, *use, length=8), 16) % 2**30


def champion(context: Context) -> DetectorVersion:
    """The detector in use. Raises `ConfigRefused` when there is none."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.champion()
    if version is None:
        raise ConfigRefused(
            "This workspace has no champion detector, and a round needs one to begin with. "
            "Register a detector and promote it, or start with `clinic demo`."
        )
    return version


def opened(context: Context, detector_id: str) -> "Detector":
    """A registered detector, ready to look. It stays open for the next shard: leave it as it is."""
    with context.workspace.catalog(read_only=True) as catalog:
        checkpoint = catalog.detectors.get(detector_id).checkpoint
    kept = context.tools.kept
    if checkpoint not in kept:
        kept.clear()
        kept[checkpoint] = context.tools.open_detector(context.workspace.checkpoints.fetch(checkpoint))
    return kept[checkpoint]


def prompts_of(context: Context, round_id: str, purpose: str) -> list[Prompt]:
    """The round's prompts of one purpose, in order."""
    with context.workspace.catalog(read_only=True) as catalog:
        return sorted(catalog.prompts.of_round(round_id, purpose), key=lambda prompt: prompt.index)


def images_of(context: Context, round_id: str, *purposes: str) -> list[Image]:
    """The round's usable images of these purposes, by id. A survey takes in what was imported before it."""
    with context.workspace.catalog(read_only=True) as catalog:
        begun = catalog.rounds.get(round_id).created
        found = catalog.images.find(round_id=round_id, purpose=purposes, status="active")
        if SURVEY in purposes:
            imported = catalog.images.find(
                source=IMPORTED, purpose="", split=("train", "validation"), status="active"
            )
            found += [image for image in imported if image.created <= begun]
    return sorted(found, key=lambda image: image.id)


def slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive parts of at most `size`."""
    return ((start, min(start + size, count)) for start in range(0, count, size))


def run_all(
    context: Context, round_id: str, run_shard: Callable[..., Result], shards: Sequence[Shard]
) -> list[Result]:
    """Run shards here, one after another, as a single stage of progress."""
    answers = []
    for index, shard in enumerate(shards):
        part = Context(context.workspace, context.tools, _part(context, index, len(shards)))
        answers.append(run_shard(part, round_id, shard))
    return answers


def _part(context: Context, index: int, shards: int) -> Any:
    def report(done: int, total: int, message: str = "", **figures: float) -> None:
        context.report(index * 1000 + 1000 * done // max(total, 1), shards * 1000, message, **figures)

    return report
