"""A round: its stages in order, and the function that runs the next one."""

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
    # Survey: generate images, predict artifact maps, assign categories.
    generate.SURVEY_STAGE,
    diagnose.SURVEY_STAGE,
    categorize.STAGE,
    # More images of the hard categories.
    write_prompts.STAGE,
    generate.HARD_STAGE,
    diagnose.HARD_STAGE,
    # Annotators label the most informative images; this may take days.
    mine.STAGE,
    wait_for_labels.STAGE,
    # A teacher trained on these labels predicts the rest.
    train_teacher.STAGE,
    pseudo_label.STAGE,
    # One immutable training set; a new champion if the candidate is better.
    publish.STAGE,
    retrain.STAGE,
    evaluate.STAGE,
    promote.STAGE,
    # Treat the generator, then compare it with its base.
    treat.STAGE,
    judge.STAGE,
)


def advance(
    context: Context,
    round_id: str,
    stages: Sequence[Stage] = ROUND,
    run_shards: Callable[..., list[Result]] = run_sequentially,
) -> Stage | Waiting | Done:
    """Run the round's next stage, or return what it waits for. Safe to repeat after any crash.

    Raises `Conflict` if the stage was recorded by another process meanwhile, and whatever the stage raises.
    """
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
    if row.stage == DONE:
        return Done()
    stage = stage_named(row.stage, stages)
    outcome = run_work(context, round_id, stage.work, run_shards)
    with context.workspace.catalog() as catalog:
        record(catalog, round_id, stage, outcome, stages)
        catalog.commit()
    return outcome if isinstance(outcome, Waiting) else stage
