"""A round, top to bottom, and how it moves."""

from collections.abc import Callable, Sequence

from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.shards import run_sequentially
from pipelines.stages import (
    categorize,
    diagnose,
    evaluate,
    generate,
    judge,
    mine,
    promote,
    pseudo_label,
    publish,
    retrain,
    train_teacher,
    treat,
    wait_for_labels,
    write_prompts,
)
from pipelines.stages.stage import DONE, Done, Stage, record, run_work, stage_named

ROUND: tuple[Stage, ...] = (
    # What the generators make, where it breaks, what it shows.
    generate.SURVEY_STAGE,
    diagnose.SURVEY_STAGE,
    categorize.STAGE,
    # More of what is hard.
    write_prompts.STAGE,
    generate.HARD_STAGE,
    diagnose.HARD_STAGE,
    # People mark the few that teach most; days, if they need days.
    mine.STAGE,
    wait_for_labels.STAGE,
    # The updated detector labels the rest.
    train_teacher.STAGE,
    pseudo_label.STAGE,
    # One immutable training set, a better detector or none.
    publish.STAGE,
    retrain.STAGE,
    evaluate.STAGE,
    promote.STAGE,
    # The generator learns; people and measures decide.
    treat.STAGE,
    judge.STAGE,
)


def advance(
    context: Context,
    round_id: str,
    stages: Sequence[Stage] = ROUND,
    run_shards: Callable[..., list[Result]] = run_sequentially,
) -> Stage | Waiting | Done:
    """Run the round's next stage, or say what it waits for. Safe to call again after any crash.

    Raises `Conflict` if somebody else recorded the stage meanwhile, and whatever the stage raises.
    """
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
    if row.stage == DONE:
        return Done()
    stage = stage_named(row.stage, stages)
    answer = run_work(context, round_id, stage.work, run_shards)
    with context.workspace.catalog() as catalog:
        record(catalog, round_id, stage, answer, stages)
        catalog.commit()
    return answer if isinstance(answer, Waiting) else stage
