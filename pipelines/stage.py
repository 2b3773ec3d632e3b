"""What a stage is, and how its answer is kept: by compare-and-set in the round's row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dataengine.errors import NotFound
from dataengine.records import Round
from pipelines.context import Context, Result, Waiting
from pipelines.steps import Shard, run_all

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


def whole(name: str, run: Callable[[Context, str], Any], people: bool = False) -> Stage:
    """A stage done in one piece."""
    return Stage(name=name, run=run, people=people)


def sharded(name: str, module: ModuleType, **settings: str) -> Stage:
    """A stage whose module offers `shards`, `run_shard` and `finish`."""
    return Stage(
        name=name,
        run=partial(getattr(module, module.__name__.rpartition(".")[2]), **settings),
        shards=partial(module.shards, **settings),
        run_shard=module.run_shard,
        finish=module.finish,
    )


def run_stage(
    context: Context, round_id: str, stage: Stage, run_shards: Callable[..., list[Result]] = run_all
) -> Result | Waiting:
    """One stage here, its shards through `run_shards` (see `pipelines.engines`)."""
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
    leaves_out, following = left_out(row), stage_after(stage.name, stages)
    while following in leaves_out:
        following = stage_after(following, stages)
    return catalog.rounds.advance(
        round_id, stage.name, answer, following, "done" if following == DONE else "running"
    )


def left_out(row: Round) -> set[str]:
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
