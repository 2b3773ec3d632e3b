"""The commands of a round's stages; some of them also do their work outside rounds."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict
from pipelines.cli import compare, diagnose, retrain, selections, treat
from pipelines.cli.command import Call, Command, OutsideRounds, named_or_newest_round, tracked
from pipelines.cli.rounds import (
    name_section,
    open_or_start_round,
    place_arguments,
    ray_settings,
    recipe_arguments,
    runner_for,
    summarize_result,
    whole_recipe,
)

if TYPE_CHECKING:
    from dataengine.records import Round

STAGES = {
    "generate": "generate the survey images, and later those of hard categories",
    "diagnose": "predict artifact maps with the champion",
    "categorize": "assign each image a category with a VQA model",
    "write-prompts": "find the hard categories and write prompts for them",
    "mine": "select the most informative images for annotation",
    "train-teacher": "train the teacher on human labels",
    "pseudo-label": "label the remaining images with the teacher",
    "publish": "publish an immutable training set",
    "retrain": "train the candidate on human labels and pseudo-labels",
    "evaluate": "compare the candidate with the champion",
    "promote": "promote the candidate to champion if it passes the gate",
    "treat": "fine-tune the generator against the detector",
    "judge": "compare the treated generator with its base",
}
OUTSIDE_ROUNDS: Mapping[str, Sequence[OutsideRounds]] = {
    "diagnose": (diagnose.FILES, selections.selection_of("diagnose")),
    "categorize": (selections.selection_of("categorize"),),
    "mine": (selections.selection_of("mine"),),
    "pseudo-label": (selections.selection_of("pseudo-label"),),
    "retrain": (retrain.WITHOUT_ROUND,),
    "treat": (treat.STANDALONE,),
    "judge": (compare.FOLDERS,),
}
"""What the command of a stage does besides, the first that is asked for."""


def stage_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    place_arguments(parser)
    for other in OUTSIDE_ROUNDS.get(name, ()):
        other.arguments(parser)
    if name == "generate":
        recipe_arguments(parser)
        parser.add_argument("--new", action="store_true", help="start a new round even if one is open")


def run_stage(name: str, call: Call) -> Any:
    """Run that stage of the round in this process, or its work outside rounds.

    Raises `Conflict` when the round is at another stage.
    """
    ray_settings(call)
    for other in OUTSIDE_ROUNDS.get(name, ()):
        if other.is_asked(call):
            return other.run(call)
    row = (
        open_or_start_round(call, new=call.options.new) if name == "generate" else named_or_newest_round(call)
    )
    if row.stage == "wait_for_labels" and name == "train-teacher":
        runner_for(call).advance(row.id)
        row = named_or_newest_round(call)
        if row.state == "waiting":
            raise Conflict(f"{row.id}: {row.message}")
    if command_of(row) != name:
        raise Conflict(f"{row.id} is at stage {row.stage!r}, not at {name!r}; see `clinic status`")
    with tracked(call, row.id, row.recipe, call.workspace.path):
        name_section(call, row)
        runner_for(call).advance(row.id)
    call.report.close()
    result = named_or_newest_round(call).results[row.stage]
    call.say(f"{row.id} {row.stage}: {summarize_result(result)}")
    return {"round": row.id, "stage": row.stage, "result": result}


def command_of(row: "Round") -> str:
    """The command that runs a round's current stage, named like the stage's section of the recipe."""
    from pipelines.services import rounds as services_rounds

    sections = {stage.name: stage.section for stage in services_rounds.describe_stages(row)}
    return sections.get(row.stage, row.stage).replace("_", "-")


def stage_command(name: str, title: str) -> Command:
    """The command that runs one stage in this process."""
    others = OUTSIDE_ROUNDS.get(name, ())
    settings = [other.settings for other in others if other.settings]
    return Command(
        name=name,
        summary="".join(["stage of a round", *(f", or {other.what}" for other in others), f": {title}"]),
        run=partial(run_stage, name),
        arguments=partial(stage_arguments, name),
        examples=(
            f"clinic {name}",
            f"clinic {name} --round round-20260101-120000-abcdef",
            *(example for other in others for example in other.examples),
        ),
        settings=whole_recipe if name == "generate" else next(iter(settings), None),
    )


COMMANDS = tuple(stage_command(name, title) for name, title in STAGES.items())
