"""A round, top to bottom, and how it moves."""

from collections.abc import Callable, Sequence

from pipelines import (
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
from pipelines.context import Context, Result, Waiting
from pipelines.stage import DONE, Done, Stage, record, run_stage, sharded, stage_named, whole
from pipelines.steps import HARD, run_all

ROUND: tuple[Stage, ...] = (
    sharded("generate", generate),  #                    what the generators draw
    sharded("diagnose", diagnose),  #                    where it breaks
    sharded("categorize", categorize),  #                what it shows
    whole("write_prompts", write_prompts.write_prompts),  # for the hard categories
    sharded("generate_hard", generate, purpose=HARD),  #    more of what is hard
    sharded("diagnose_hard", diagnose, purpose=HARD),
    whole("mine", mine.mine),  #                         the few images that teach most
    whole("wait_for_labels", wait_for_labels.wait_for_labels, people=True),  # days, if people need days
    whole("train_teacher", train_teacher.train_teacher),  # on true labels alone
    sharded("pseudo_label", pseudo_label),  #            the teacher labels the rest
    whole("publish", publish.publish),  #                one immutable training set
    whole("retrain", retrain.retrain),  #                a better detector, on all of it
    whole("evaluate", evaluate.evaluate),  #             champion beside candidate
    whole("promote", promote.promote),  #                or not
    whole("treat", treat.treat),  #                      the generator learns
    whole("judge", judge.judge),  #                      before against after
)


def advance(
    context: Context,
    round_id: str,
    stages: Sequence[Stage] = ROUND,
    run_shards: Callable[..., list[Result]] = run_all,
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
