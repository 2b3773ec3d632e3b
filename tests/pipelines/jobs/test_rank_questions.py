"""Choosing a yes/no question on labelled validation images, with answers kept."""

from typing import Any

import numpy as np
import pytest

from dataengine.curation.vqa import QuestionCategorizer
from dataengine.errors import ConfigRefused
from pipelines.jobs.rank_questions import rank_questions
from pipelines.runtime.context import Context
from tests.fakes import with_methods
from tests.pipelines.conftest import Played


class Seer:
    """Sees pure red, and answers what each question wants to hear only if it asks for flaws."""

    name = "seer"

    def __init__(self) -> None:
        self.times = 0

    def with_question(self, config: Any) -> "Seer":
        return self

    def answer(self, image: np.ndarray) -> str:
        self.times += 1
        red = (image[..., 0] > 230) & (image[..., 1:].max(-1) < 40)
        return "yes" if red.any() else "no"


@pytest.fixture
def seen(played: Played) -> tuple[Context, Seer]:
    seer = Seer()

    def opened(location: str, config: Any, keep: Any) -> QuestionCategorizer:
        return QuestionCategorizer(seer, config)

    models = with_methods(played.context.models, open_vqa=opened)
    return Context(played.context.workspace, models), seer


def test_questions_are_ranked_by_what_people_marked(seen: tuple[Context, Seer], played: Played) -> None:
    context, seer = seen
    rows = rank_questions(context, played.round_id, "seer", (5, 31), 40)
    assert [row["number"] for row in rows] == [5, 31]
    assert rows[0]["accuracy"] > 0.8 and rows[1]["accuracy"] == pytest.approx(1 - rows[0]["accuracy"])
    assert [row["yes_means"] for row in rows] == ["artifact", "clean"]
    asked = seer.times
    assert asked == 2 * rows[0]["images"]
    assert rank_questions(context, played.round_id, "seer", (5, 31), 40) == rows
    assert seer.times == asked, "answers are kept"


def test_a_classifier_answers_no_question(played: Played) -> None:
    with pytest.raises(ConfigRefused, match="answers no question"):
        rank_questions(played.context, played.round_id, "classifier", (5,), 10)
