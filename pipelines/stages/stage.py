"""What a stage is, and how its answer is kept: by compare-and-set in the round's row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dataengine.errors import NotFound
from dataengine.records import Round
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.shards import Shard, run_in_turn

if TYPE_CHECKING:
    from storage.catalog import Catalog


DONE = "done"
"""Where the cursor stands when no stage is left."""

PARTS: dict[str, tuple[str, ...]] = {
    "hard": ("generate_hard", "diagnose_hard"),
    "detector": (
        "mine",
        "wait_for_labels",
        "train_teacher",
        "pseudo_label",
        "publish",
        "retrain",
        "evaluate",
        "promote",
    ),
    "treatment": ("treat", "judge"),
}
"""The stages of each part that a recipe may leave out; all others belong to the survey."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a round: a plain function, in shards where its work splits by image.

    `people` marks a stage that only looks whether people have acted: no job is made for it, and it may answer
    `Waiting`.
    """

    name: str
    run: Callable[[Context, str], Result | Waiting]
    shards: Callable[[Context, str], list[Shard]] | None = None
    run_shard: Callable[[Context, str, Shard], Result] | None = None
    finish: Callable[[Context, str, Sequence[Result]], Result] | None = None
    people: bool = False


@dataclass(frozen=True)
class Done:
    """The round has no stage left."""


def whole_stage(name: str, run: Callable[[Context, str], Any], people: bool = False) -> Stage:
    """A stage done in one piece."""
    return Stage(name=name, run=run, people=people)


def sharded_stage(name: str, module: ModuleType, **settings: str) -> Stage:
    """A stage whose module offers `shards`, `run_shard` and `finish`."""
    return Stage(
        name=name,
        run=partial(getattr(module, module.__name__.rpartition(".")[2]), **settings),
        shards=partial(module.shards, **settings),
        run_shard=module.run_shard,
        finish=module.finish,
    )


def run_stage(
    context: Context, round_id: str, stage: Stage, run_shards: Callable[..., list[Result]] = run_in_turn
) -> Result | Waiting:
    """One stage here, its shards through `run_shards` (see `pipelines.worker.ray_shards`)."""
    if stage.shards is None or stage.run_shard is None or stage.finish is None:
        return stage.run(context, round_id)
    answers = run_shards(context, round_id, stage.run_shard, stage.shards(context, round_id))
    return stage.finish(context, round_id, answers)


def record(
    catalog: "Catalog", round_id: str, stage: Stage, answer: Result | Waiting, stages: Sequence[Stage]
) -> Round:
    """Keep a stage's answer and move the cursor, or put the round to sleep. The caller commits."""
    row = catalog.rounds.hold(round_id)
    if isinstance(answer, Waiting):
        if row.stage == stage.name and (row.state, row.message) != ("waiting", answer.reason):
            catalog.rounds.set_state(round_id, "waiting", answer.reason)
        return row
    leaves_out, following = skipped_stages(row), stage_after(stage.name, stages)
    while following in leaves_out:
        following = stage_after(following, stages)
    return catalog.rounds.advance(
        round_id, stage.name, answer, following, "done" if following == DONE else "running"
    )


def skipped_stages(row: Round) -> set[str]:
    """The stages that the round's recipe does without."""
    parts = row.recipe.get("parts", PARTS)
    return {name for part, names in PARTS.items() if part not in parts for name in names}


def stage_named(name: str, stages: Sequence[Stage]) -> Stage:
    """The stage of that name. Raises `NotFound` naming the stages there are."""
    for stage in stages:
        if stage.name == name:
            return stage
    raise NotFound(f"a round has no stage {name!r}; its stages are {', '.join(s.name for s in stages)}")


def stage_after(name: str, stages: Sequence[Stage]) -> str:
    """The name of the stage that follows, `DONE` after the last."""
    names = [stage.name for stage in stages]
    return [*names[1:], DONE][names.index(stage_named(name, stages).name)]


TITLES = {
    "generate": "generate: survey images",
    "diagnose": "diagnose: artifact maps",
    "categorize": "categorize: what is shown",
    "write_prompts": "write prompts for hard categories",
    "generate_hard": "generate: hard cases",
    "diagnose_hard": "diagnose: hard cases",
    "mine": "mine: the most instructive",
    "wait_for_labels": "people label",
    "train_teacher": "train the teacher",
    "pseudo_label": "pseudo-label the rest",
    "publish": "publish the training set",
    "retrain": "retrain the detector",
    "evaluate": "evaluate on the benchmark",
    "promote": "promote",
    "treat": "treat the generator",
    "judge": "draw held-out prompts, before and after",
}


def found(stage: str, result: dict[str, Any]) -> str:
    """What a stage found; empty for one that we have no words for."""
    return FOUND[stage](result) if stage in FOUND else ""


def _categories(result: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name or 'without category'}" for name, count in result["categories"].items())


def _samples(result: dict[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in result["samples"].items())


def _evaluated(result: dict[str, Any]) -> str:
    parts = [
        f"{name.replace('_', ' ')} {before['mse']:.4f} → {result['candidate'][name]['mse']:.4f}"
        for name, before in result["champion"].items()
    ]
    return "MSE " + ", ".join(parts)


def _promoted(result: dict[str, Any]) -> str:
    return "the candidate is champion" if result["promoted"] else "refused: " + "; ".join(result["reasons"])


def _treated(result: dict[str, Any]) -> str:
    if result["treated"] is None:
        return f"nothing kept: {result['stopped']}"
    return f"update {result['kept']} of {result['updates']} kept; {result['stopped']}"


def _judged(result: dict[str, Any]) -> str:
    if not result["pairs"]:
        return "no treated generator"
    frequency, confidence = result["frequency"], result["mean_confidence"]
    return (
        f"{result['pairs']} pairs; the detector alarms in {frequency['before']:.0%} → "
        f"{frequency['after']:.0%}, mean confidence × {confidence['ratio']:.2f}"
    )


def _suspected(result: dict[str, Any]) -> str:
    return f"an alarm in {result['suspected']} of {result['images']} images"


FOUND: dict[str, Callable[[dict[str, Any]], str]] = {
    "generate": lambda result: f"{result['images']} images",
    "diagnose": _suspected,
    "categorize": _categories,
    "write_prompts": lambda result: "hard: " + (", ".join(result["hard"]) or "none"),
    "generate_hard": lambda result: f"{result['images']} images",
    "diagnose_hard": _suspected,
    "mine": lambda result: f"{result['queued']} images go to people",
    "wait_for_labels": lambda result: f"{result['labels']} answers, {result['clean']} of them clean",
    "train_teacher": _samples,
    "pseudo_label": lambda result: f"{result['images']} images, {result['flawed']} of them broken",
    "publish": lambda result: f"{result['rows']} rows, snapshot {result['snapshot'][:12]}",
    "retrain": _samples,
    "evaluate": _evaluated,
    "promote": _promoted,
    "treat": _treated,
    "judge": _judged,
}

Said = dict[str, Any]

INTO = {
    "generate": "survey prompts",
    "diagnose": "survey images",
    "categorize": "survey images",
    "write_prompts": "confidence by category",
    "generate_hard": "prompts for the hard categories",
    "diagnose_hard": "hard images",
    "mine": "images of the hard categories",
    "wait_for_labels": "the images chosen for people",
    "train_teacher": "people’s labels, real pictures, earlier sets",
    "pseudo_label": "images that nobody labelled",
    "publish": "labels, pseudo-labels, real pictures",
    "retrain": "the published set",
    "evaluate": "champion and candidate, validation and benchmark",
    "promote": "their figures on validation",
    "treat": "a generator, the champion, treating prompts",
    "judge": "both generators, held-out prompts and seeds",
}
"""What each stage takes."""


def drew(result: Said) -> str:
    made = ", ".join(f"{count} by {name}" for name, count in result["by_generator"].items())
    return f"{result['images']} images{f': {made}' if made else ''}"


def looked(result: Said) -> str:
    return (
        f"{result['suspected']} of {result['images']} images suspected, mean maximum {result['mean_max']:.2f}"
    )


def kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing"


def figure(result: Said, who: str, name: str) -> float | None:
    """A detector's figure on the validation images that people labelled."""
    found: float | None = result.get(who, {}).get("validation", {}).get(name)
    return found


def arrow(before: float | None, after: float | None) -> str:
    return " → ".join("–" if value is None else f"{value:.4g}" for value in (before, after))


def judged_figures(result: Said) -> str:
    if not result["pairs"]:
        return "nothing to compare"
    mean, frequency = result["mean_confidence"], result["frequency"]
    return (
        f"{result['pairs']} pairs; mean confidence {arrow(mean['before'], mean['after'])}, "
        f"flawed images {arrow(frequency['before'], frequency['after'])}"
    )


OUT: dict[str, Callable[[Said], str]] = {
    "generate": drew,
    "diagnose": looked,
    "categorize": lambda result: kinds(result["categories"]),
    "write_prompts": lambda result: (
        f"hard: {', '.join(result['hard']) or 'none'}; {sum(result['prompts'].values())} prompts"
    ),
    "generate_hard": drew,
    "diagnose_hard": looked,
    "mine": lambda result: f"{result['queued']} images for people",
    "wait_for_labels": lambda result: (
        f"{result['labels']} labels by {result['authors']} people, {result['clean']} of them clean"
    ),
    "train_teacher": lambda result: f"a teacher, from {kinds(result['samples'])}",
    "pseudo_label": lambda result: (
        f"{result['images']} images labelled by the teacher, {result['flawed']} flawed"
    ),
    "publish": lambda result: f"{result['rows']} rows: {kinds(result['composition'])}",
    "retrain": lambda result: f"a candidate, from {kinds(result['samples'])}",
    "evaluate": lambda result: (
        "squared error on validation "
        + arrow(figure(result, "champion", "mse"), figure(result, "candidate", "mse"))
    ),
    "promote": lambda result: (
        "the candidate is champion" if result["promoted"] else f"kept: {'; '.join(result['reasons'])}"
    ),
    "treat": lambda result: f"kept update {result['kept']} of {result['updates']}; {result['stopped']}",
    "judge": judged_figures,
}
"""What each stage's answer says, in a line."""


def came_out(stage: str, result: Said) -> str:
    """A stage's answer in a line; its plain figures where it is none that we know."""
    try:
        return OUT[stage](result)
    except (KeyError, TypeError, ValueError):
        plain = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
        return ", ".join(f"{name} {value}" for name, value in plain.items())
