"""Stages: definition, running them, and storing results, by compare-and-set in the round's row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dataengine.errors import NotFound
from dataengine.records import Round
from pipelines.config import Part
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.events import announce
from pipelines.runtime.shards import Shard, run_sequentially

if TYPE_CHECKING:
    from storage.catalog import Catalog


DONE = "done"
"""The cursor after the last stage."""

SURVEY_PART: Literal["survey"] = "survey"
"""The part that every round includes."""

Action = Literal["run", "shards", "shard", "finish"]
"""The actions of a stage: run all of it, list its shards, run one shard, or join the results."""


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """Work that splits by image: its shards run anywhere and in any order, then their results are joined."""

    shards: Callable[[Context, str], list[Shard]]
    run_shard: Callable[[Context, str, Shard], Result]
    """A module-level function, because Ray passes it by name."""
    finish: Callable[[Context, str, Sequence[Result]], Result]


Work = Sharded | Callable[[Context, str], Result | Waiting]
"""The work of a stage on (context, round id): in shards, or as a whole."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a round, with its texts for the user interface."""

    name: str
    """Stored in the round's row and in its jobs."""
    title: str
    """A short description."""
    part: Literal["survey"] | Part
    """The part of the round that it belongs to; a recipe may leave out any but the survey."""
    section: str
    """The section of the recipe (`pipelines.config.RoundRecipe`) that configures it."""
    takes: str
    """Its input, in words."""
    found: Callable[[Result], str]
    """Its recorded result, in words; `summary` also handles results of older versions."""
    work: Work
    people: bool = False
    """It waits for people: it has no job, and may return `Waiting`."""

    def summary(self, result: Result) -> str:
        """The stage's result, in words; the plain figures of a result that lacks what the words need, as one
        recorded by an older version may."""
        try:
            return self.found(result)
        except (KeyError, TypeError, ValueError, AttributeError):
            plain = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
            return ", ".join(f"{name} {value}" for name, value in plain.items())


@dataclass(frozen=True)
class Done:
    """The round has no stage left."""


def run_work(
    context: Context, round_id: str, work: Work, run_shards: Callable[..., list[Result]] = run_sequentially
) -> Any:
    """A stage's work in this process, its shards through `run_shards` (see `pipelines.worker.ray_shards`).
    Gives its result; `Waiting` from a stage of people."""

    def spread(shards: Sequence[Shard]) -> list[Result]:
        assert isinstance(work, Sharded)
        return run_shards(context, round_id, work.run_shard, shards)

    return in_actions(work, partial(run_action, context, round_id, work), spread)


def in_actions(
    work: Work,
    perform: Callable[[Action, Any], Any],
    spread: Callable[[Sequence[Shard]], Sequence[Result]],
) -> Any:
    """The result of work by its actions, wherever these run: as a whole, or as shards and what joins them.

    `perform(action, payload)` answers for one action, `spread(shards)` for all shards, in order.
    """
    if not isinstance(work, Sharded):
        return perform("run", None)
    return perform("finish", spread(perform("shards", None)["shards"]))


def run_action(
    context: Context, round_id: str, work: Work, action: Action, payload: Any = None
) -> Result | Waiting:
    """One action in this process: `payload` is the shard of "shard" and the results of "finish"."""
    if not isinstance(work, Sharded):
        assert action == "run", f"work of one piece has no {action}"
        return work(context, round_id)
    if action == "run":
        return run_work(context, round_id, work)
    if action == "shards":
        return {"shards": work.shards(context, round_id)}
    if action == "shard":
        return work.run_shard(context, round_id, payload)
    return work.finish(context, round_id, payload)


def record(
    catalog: "Catalog", round_id: str, stage: Stage, answer: Result | Waiting, stages: Sequence[Stage]
) -> Round:
    """Store a stage's answer and advance the cursor, or set the round to waiting. The caller commits."""
    row = catalog.rounds.hold(round_id)
    if isinstance(answer, Waiting):
        if row.stage == stage.name and (row.state, row.message) != ("waiting", answer.reason):
            catalog.rounds.set_state(round_id, "waiting", answer.reason)
        return row
    skipped, following = skipped_stages(row, stages), stage_after(stage.name, stages)
    while following in skipped:
        following = stage_after(following, stages)
    if following == DONE:
        announce(catalog, "round finished", round_id, round_id, f"Round {round_id} is finished.")
    return catalog.rounds.advance(
        round_id, stage.name, answer, following, "done" if following == DONE else "running"
    )


def skipped_stages(row: Round, stages: Sequence[Stage]) -> set[str]:
    """The names of the stages that the round's recipe leaves out. A recipe without parts has them all."""
    parts = row.recipe.get("parts")
    if parts is None:
        return set()
    return {stage.name for stage in stages if stage.part not in (SURVEY_PART, *parts)}


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


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words: "3 true, 5 pseudo"."""
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"


KINDS = {
    "true": "human-labelled",
    "pseudo": "pseudo-labelled",
    "real": "real",
    "previous": "earlier",
    "injected": "with an injected artifact",
}
"""Kinds of a training set's images, in words."""


def images_by_kind(counts: Mapping[str, int]) -> str:
    """A training set in words: "1,200 earlier, 559 real and 280 human-labelled images"."""
    *others, last = [f"{count:,} {KINDS.get(kind, kind)}" for kind, count in counts.items()] or ["no"]
    return f"{', '.join(others)} and {last} images" if others else f"{last} images"


def change(before: float | None, after: float | None) -> str:
    """A figure before and after: "0.12 → 0.08", a dash for one that is missing."""
    return " → ".join("–" if value is None else f"{value:.4g}" for value in (before, after))
