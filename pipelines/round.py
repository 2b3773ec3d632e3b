"""A round, top to bottom, and how it moves."""

from collections.abc import Callable, Sequence

from dataengine.records.images import HARD
from pipelines.runtime.context import Context, Result, Waiting
from pipelines.runtime.shards import run_in_turn
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
from pipelines.stages.stage import (
    DONE,
    Done,
    Stage,
    record,
    run_stage,
    sharded_stage,
    stage_named,
    whole_stage,
)

ROUND: tuple[Stage, ...] = (
    # What the generators draw, where it breaks, what it shows.
    sharded_stage("generate", generate),
    sharded_stage("diagnose", diagnose),
    sharded_stage("categorize", categorize),
    # More of what is hard.
    whole_stage("write_prompts", write_prompts.write_prompts),
    sharded_stage("generate_hard", generate, purpose=HARD),
    sharded_stage("diagnose_hard", diagnose, purpose=HARD),
    # People draw on the few that teach most; days, if they need days.
    whole_stage("mine", mine.mine),
    whole_stage("wait_for_labels", wait_for_labels.wait_for_labels, people=True),
    # The updated detector labels the rest.
    whole_stage("train_teacher", train_teacher.train_teacher),
    sharded_stage("pseudo_label", pseudo_label),
    # One immutable training set, a better detector or none.
    whole_stage("publish", publish.publish),
    whole_stage("retrain", retrain.retrain),
    whole_stage("evaluate", evaluate.evaluate),
    whole_stage("promote", promote.promote),
    # The generator learns; people and measures decide.
    whole_stage("treat", treat.treat),
    whole_stage("judge", judge.judge),
)


def advance(
    context: Context,
    round_id: str,
    stages: Sequence[Stage] = ROUND,
    run_shards: Callable[..., list[Result]] = run_in_turn,
) -> Stage | Waiting | Done:
    """Run the round's next stage, or say what it waits for. Safe to call again after any crash.

    Raises `Conflict` if somebody else recorded the stage meanwhile, and whatever the stage raises.
    """
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
    if row.stage == DONE:
        return Done()
    stage = stage_named(row.stage, stages)
    answer = run_stage(context, round_id, stage, run_shards)
    with context.workspace.catalog() as catalog:
        record(catalog, round_id, stage, answer, stages)
        catalog.commit()
    return answer if isinstance(answer, Waiting) else stage
