"""Train the teacher: from the champion, on true labels and real pictures; once."""

from typing import Any

import pytest

from dataengine.errors import ConfigRefused
from pipelines.runtime.context import Context
from pipelines.stages.train_teacher import train_teacher
from tests.fakes import with_methods
from tests.pipelines.conftest import Played, play


def test_registers_a_teacher_of_the_first_doctor(played: Played) -> None:
    result = played.results["train_teacher"]
    with played.context.workspace.catalog(read_only=True) as catalog:
        teacher = catalog.detectors.get(result["detector"])
    assert (teacher.role, teacher.parent, teacher.round_id) == ("teacher", "first", played.round_id)
    assert set(result["samples"]) == {"true", "real"}
    assert teacher.config["name"] == "teacher"


def test_a_second_call_trains_nothing(played: Played) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("the teacher exists")

    models = with_methods(played.context.models, train_detector=refuse)
    again = train_teacher(Context(played.context.workspace, models), played.round_id)
    assert again["detector"] == played.results["train_teacher"]["detector"]


def test_without_a_label_there_is_nothing_to_learn(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    play(context, round_id, until="wait_for_labels")
    with pytest.raises(ConfigRefused, match="No training image of this round has a label"):
        train_teacher(context, round_id)
