"""A yes/no question to a VQA model as an image-level detector (ASCED, Sec. 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dataengine.curation.config import VqaConfig
from dataengine.curation.questions import NO, YES, Question
from dataengine.errors import ConfigRefused


def vqa_config(question: Question) -> VqaConfig:
    """The VQA configuration of a yes/no question."""
    return VqaConfig(question=question.text, categories=(YES, NO))


class QuestionAnswerer(Protocol):
    """A VQA model with one question."""

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        """("yes" or "no", confidence) of each of the uint8 NHW3 images; another word where it is unclear."""


class YesNoDetector:
    """Predicts for whole images whether there is an artifact, by one question to a model."""

    def __init__(self, model: QuestionAnswerer, question: Question) -> None:
        """`model` answers by `vqa_config(question)`."""
        self.question = question
        self._model = model

    def verdicts(self, images: np.ndarray) -> list[bool | None]:
        """Whether each of the uint8 NHW3 images has an artifact; None where the answer is unclear."""
        return [self.question.artifact(answer) for answer, _ in self._model.categories(images)]


@dataclass(frozen=True)
class Score:
    """How well one question separates flawed from clean images."""

    question: Question
    accuracy: float
    """Balanced accuracy: mean of the shares classified right among flawed and among clean images; an unclear
    answer is wrong."""
    found: float
    """Share of the flawed images that it flags."""
    cleared: float
    """Share of the clean images that it does not flag."""
    unclear: int


def score_questions(
    verdicts: Mapping[Question, Sequence[bool | None]], flawed: Sequence[bool]
) -> list[Score]:
    """The questions by accuracy on images whose truth is known, best first, lower numbers first among equals.

    Raises `ConfigRefused` unless there are flawed and clean images.
    """
    if not any(flawed) or all(flawed):
        raise ConfigRefused(
            f"{sum(flawed)} of {len(flawed)} images are flawed; ranking needs flawed and clean ones"
        )
    scores = []
    for question, question_verdicts in verdicts.items():
        flagged = float(
            np.mean([one is True for one, bad in zip(question_verdicts, flawed, strict=True) if bad])
        )
        cleared = float(
            np.mean([one is False for one, bad in zip(question_verdicts, flawed, strict=True) if not bad])
        )
        unclear = sum(one is None for one in question_verdicts)
        scores.append(Score(question, (flagged + cleared) / 2, flagged, cleared, unclear))
    return sorted(scores, key=lambda score: (-score.accuracy, score.question.number))
