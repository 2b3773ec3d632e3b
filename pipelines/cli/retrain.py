"""`clinic retrain` outside rounds: train a detector on everything that is labelled, from any start."""

import argparse
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import ACTOR, Call, OutsideRounds, tracked, with_settings

if TYPE_CHECKING:
    from pipelines.config import TrainingRun

OUTSIDE = "without a round"
EXAMPLES = (
    "clinic retrain --start imagenet --recipe photo",
    "clinic retrain --start models/my-encoder --recipe photo --set training.steps=2000",
    "clinic retrain --start ID --detach",
)


def training_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that make `clinic retrain` train outside rounds."""
    parser.add_argument(
        "--start",
        metavar="WHAT",
        help="train outside a round, from a registered detector (id or name), the weights of an encoder "
        "(“imagenet”, “nvidia/mit-b0” to “nvidia/mit-b5”, which are non-commercial, a file, or a folder that "
        "transformers saved), or “random” (default: that of the recipe, else the champion)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="settings of the training: photo, paper, demo, … (default: those of the champion, or "
        f"photo); {OUTSIDE}",
    )
    parser.add_argument("--name", default="", help=f"name of the new detector; {OUTSIDE}")
    parser.add_argument("--seed", type=int, help=f"random seed (default: 0); {OUTSIDE}")
    parser.add_argument(
        "--detach", action="store_true", help=f"queue it for a worker and return at once; {OUTSIDE}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"change one setting; may be repeated; {OUTSIDE}",
    )


def is_outside_rounds(call: Call) -> bool:
    """Whether the command was asked for a training outside rounds: with any of its options, and in a
    workspace without a round. Raises `ConfigRefused` when a round is named as well."""
    given = call.options
    asked = any((given.start, given.recipe, given.name, given.seed is not None, given.detach, given.set))
    if asked and (given.round or given.engine != "local"):
        raise ConfigRefused(
            "--round and --engine belong to the stage of a round; leave them out to train outside of one"
        )
    if asked or given.round:
        return asked
    with call.workspace.catalog(read_only=True) as catalog:
        return not catalog.rounds.list()


def train(call: Call) -> Any:
    """Train here or, with --detach, on a worker; the candidate waits for a person's decision."""
    from pipelines.services import runs
    from pipelines.services.queue import workers_alive
    from pipelines.services.training import here

    plan = plan_of(call)
    ignored = () if call.options.detach else ("worker",)
    warnings = [check.text for check in here.training_warnings(call.workspace, plan, ignored)]
    for text in warnings:
        call.say(f"  note: {text}")
    if call.options.detach:
        if call.options.track:
            raise ConfigRefused("--track needs the training in this process: leave --detach out")
        job = runs.start_training(call.workspace, plan, ACTOR)
        call.say(f"{job.args['run']} is queued; follow it with `clinic status`")
        if not workers_alive(call.workspace):
            call.say("  no worker is running: start one with `clinic worker`")
        return {"job": job.id, "run": job.args["run"], "warnings": warnings}
    with tracked(call, f"train-{plan.training.name}", plan.model_dump(mode="json"), call.workspace.path):
        result = here.train_detector(call.workspace, plan, call.options.device, call.report)
    call.report.close()
    made = here.trained_detector(call.workspace, result)
    counts = ", ".join(f"{count} {kind}" for kind, count in result["samples"].items())
    call.say(f"{made.id}: {made.name}, {made.role}, trained on {counts}; licence {made.licence}")
    call.say(f"  it {describe(made)}")
    call.say(f"  make it the champion with `clinic detectors --promote {made.id}`")
    return {**result, "licence": made.licence, "warnings": warnings}


def describe(version: Any) -> str:
    """A detector's operating point in words."""
    from dataengine.records import describe_point

    return str(describe_point(version)["text"])


def plan_of(call: Call) -> "TrainingRun":
    """The settings of the training, from the command's options."""
    from pipelines.config import TrainingRun
    from pipelines.services.training.here import plan_training

    given = call.options
    plan = plan_training(call.workspace, given.recipe or "", given.start or "", given.seed or 0)
    settings = with_settings(plan.model_dump(mode="json"), given.set)
    if given.name:
        settings["training"]["name"] = given.name
    return TrainingRun.model_validate(settings)


def training_run() -> "type[TrainingRun]":
    from pipelines.config import TrainingRun

    return TrainingRun


WITHOUT_ROUND = OutsideRounds(
    what="outside rounds",
    arguments=training_arguments,
    is_asked=is_outside_rounds,
    run=train,
    examples=EXAMPLES,
    settings=training_run,
)
