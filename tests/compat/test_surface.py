"""What commit 8f1fbce could be asked is still there: commands, settings, recipes, routes, kinds of work.

The stored lists are made by `make_workspaces.py`. A name may be added, or replaced by a better one as long as
the old one is read; then `RENAMED` says which.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import app
from dataengine.curation.config import QuestionConfig
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.records import (
    FILES,
    JOB_KINDS,
    STAGE_JOB,
    GeneratorVersion,
    image_id,
    prompt_group,
    split_of,
)
from dataengine.treatment.config import WeightsConfig
from pipelines import recipes
from pipelines.cli.command import with_settings
from pipelines.cli.main import build_parser
from pipelines.config import RoundRecipe
from pipelines.detectors.score_dynamics import dynamics_id
from pipelines.detectors.yes_no_question import question_id
from pipelines.generators.files import reads_prompts, weights_of
from pipelines.round import ROUND
from pipelines.services.queue import APPLICATION, JOB_QUEUE, JOB_WORKFLOW, TASK_QUEUE
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace
from tests.compat.surface import commands_of, leaves_of, routes_of, settings_of
from ui.server import create_app

HERE = Path(__file__).parent
RENAMED = {
    "mine.rival": "mine.second_detector",
    "opinions": "annotations_per_image",
    "rival": "second_detector",
}
"""Dotted paths of settings, and names that routes read: the old one, which is still read, and the new one."""

CONFIGURED = {command.name: command.settings for command in app.COMMANDS if command.settings}


def stored(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def today(name: str) -> str:
    return RENAMED.get(name, name)


def missing(old: Iterable[str], new: Iterable[str]) -> set[str]:
    return {today(name) for name in old} - set(new)


def test_every_command_and_option_is_still_there() -> None:
    commands = commands_of(build_parser(app.COMMANDS))
    for name, options in stored("commands.json").items():
        assert not missing(options, commands.get(name, ())), name


def test_every_route_is_still_there_and_reads_the_same_names(tmp_path: Path) -> None:
    routes = routes_of(create_app(tmp_path))
    old = stored("routes.json")
    assert len(old) > 120 and not missing(old, routes)
    for name, fields in old.items():
        assert not missing(fields, routes[name]), name


@pytest.mark.parametrize("name", stored("settings.json"))
def test_every_setting_is_still_accepted(name: str) -> None:
    assert not missing(stored("settings.json")[name], settings_of(CONFIGURED[name]()))


def test_a_round_takes_every_old_set_option() -> None:
    base = recipes.named("demo").model_dump(mode="json")
    for path, default in stored("settings.json")["round"].items():
        if "?" in path:  # a section that is null by default is set as a whole
            continue
        changed = RoundRecipe.model_validate(with_settings(base, [f"{path}={json.dumps(default)}"]))
        assert setting(changed.model_dump(mode="json", by_alias=False), today(path)) == default, path


def setting(settings: dict[str, Any], path: str) -> Any:
    value: Any = settings
    for part in path.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("name", [path.stem for path in sorted((HERE / "recipes").iterdir())])
def test_a_stored_recipe_means_what_it_meant(name: str) -> None:
    old = stored(f"recipes/{name}.json")
    read = RoundRecipe.model_validate(old).model_dump(mode="json", by_alias=False)
    for path, value in leaves_of(old):
        assert setting(read, today(path)) == value, path
    assert name in recipes.RECIPES


def test_stages_kinds_and_queues_have_the_names_that_rows_carry() -> None:
    old = stored("work.json")
    assert [stage.name for stage in ROUND if stage.name in old["stages"]] == old["stages"]
    assert not missing(old["kinds"], {STAGE_JOB, *JOB_KINDS}) and set(JOB_KINDS) == set(JOBS)
    assert old["queues"] == [JOB_QUEUE, TASK_QUEUE]
    assert (old["workflow"], old["application"]) == (JOB_WORKFLOW, APPLICATION)


def test_ids_of_what_is_stored_are_counted_as_before() -> None:
    """Else a known image or detector would be taken for a new one, and images would change their split.

    Score dynamics are the exception: their rule has changed, and maps by it must not join those of the old.
    """
    ids = stored("work.json")["ids"]
    of_the_old_rule = ids.pop("dynamics")
    assert ids == {
        "image": image_id("a" * 64, "generator", "a hand", 7),
        "group": prompt_group("a hand", 7),
        "split": split_of("group", 0.2),
        "question": question_id(QuestionConfig(model="folder")),
    }
    old_growth = DynamicsConfig(dilation=5 / 256)
    assert of_the_old_rule not in (dynamics_id(DynamicsConfig()), dynamics_id(old_growth))


def test_a_generators_settings_are_read_under_their_old_names(tmp_path: Path) -> None:
    old = stored("work.json")["generator_settings"]
    version = GeneratorVersion(id="old", name="old", location="hub/id", settings=old)
    assert weights_of(version) == WeightsConfig() and FILES in old
    workspace = create_workspace(tmp_path)
    assert not reads_prompts(workspace, replace(version, settings=old | {FILES: None}))
    workspace.close()
