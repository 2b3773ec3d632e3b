"""The paper's yes/no questions: which answer means artifact, and which question is chosen."""

import numpy as np
import pytest

from dataengine.curation.config import VqaConfig
from dataengine.curation.questions import QUESTIONS, select_questions
from dataengine.curation.vqa import QuestionCategorizer
from dataengine.curation.yes_no import YesNoDetector, score_questions, vqa_config
from dataengine.errors import ConfigRefused

CLEAN_ON_YES = {30, 31, 32, *range(34, 41)}


def test_there_are_forty_three_and_each_knows_what_yes_means() -> None:
    assert len(QUESTIONS) == len({question.text for question in QUESTIONS}) == 43
    assert {question.number for question in QUESTIONS if question.yes_means == "clean"} == CLEAN_ON_YES
    five, thirty = select_questions([5, 30])
    assert five.artifact("yes") is True and five.artifact("no") is False and five.artifact("other") is None
    assert thirty.artifact("yes") is False and thirty.artifact("no") is True
    with pytest.raises(ConfigRefused, match=r"no question \[17\]"):
        select_questions([5, 17])


class Parrot:
    """Says the same to every question about an image, by its first pixel; counts how often it is asked."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.question = ""

    def with_question(self, config: VqaConfig) -> "Parrot":
        self.question = config.question_text
        return self

    def answer(self, image: np.ndarray) -> str:
        self.asked.append(self.question)
        return {0: "Yes, there are.", 1: "No.", 2: "Perhaps"}[int(image[0, 0, 0])]


def test_a_model_is_asked_and_its_words_are_understood() -> None:
    five, thirty = select_questions([5, 30])
    model = QuestionCategorizer(Parrot(), vqa_config(five))
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 1, 2)])
    assert YesNoDetector(model, five).verdicts(images) == [True, False, None]
    other = model.with_question(vqa_config(thirty))
    assert YesNoDetector(other, thirty).verdicts(images) == [False, True, None]


def test_the_best_question_is_right_on_both_kinds() -> None:
    five, sixteen, thirty = select_questions([5, 16, 30])
    flawed = [True, True, False, False]
    scores = score_questions(
        {
            five: [True, True, True, True],  # always yes
            sixteen: [True, None, False, False],  # one unclear
            thirty: [True, False, False, None],
        },
        flawed,
    )
    assert [score.question.number for score in scores] == [16, 5, 30]
    assert [score.accuracy for score in scores] == [0.75, 0.5, 0.5]
    assert scores[0].unclear == 1 and (scores[1].found, scores[1].cleared) == (1, 0)
    with pytest.raises(ConfigRefused, match="4 of 4 images are flawed"):
        score_questions({five: [True] * 4}, [True] * 4)
