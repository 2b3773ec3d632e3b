"""A yes/no question to a VQA model as a detector of flawed images (ASCED, Sec. 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dataengine.curation.config import VqaConfig
from dataengine.curation.questions import NO, YES, Question
from dataengine.errors import ConfigRefused


def vqa_config(question: Question) -> VqaConfig:
    """How a VQA model is asked the question."""
    return VqaConfig(question=question.text, categories=(YES, NO))


class QuestionAnswerer(Protocol):
    """Answers one question about images."""

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        """("yes" or "no", confidence) of each of the uint8 NHW3 images; another word where it is unclear."""


class YesNoDetector:
    """Says of whole images whether there is an artifact, by asking a model one question."""

    def __init__(self, model: QuestionAnswerer, question: Question) -> None:
        """`model` is asked with `vqa_config(question)`."""
        self.question = question
        self._model = model

    def verdicts(self, images: np.ndarray) -> list[bool | None]:
        """Whether each of the uint8 NHW3 images has an artifact; None where the answer is unclear."""
        return [self.question.artifact(said) for said, _ in self._model.categories(images)]


@dataclass(frozen=True)
class Score:
    """How well one question told flawed from clean images."""

    question: Question
    accuracy: float
    """Mean of the shares that are right among flawed and among clean images; an unclear answer is wrong."""
    found: float
    """Share of the flawed images that it finds."""
    cleared: float
    """Share of the clean images that it clears."""
    unclear: int


def score_questions(
    verdicts: Mapping[Question, Sequence[bool | None]], flawed: Sequence[bool]
) -> list[Score]:
    """The questions by accuracy on images whose truth is known, best first, lower numbers first among equals.

    Raises `ConfigRefused` unless there are flawed and clean images.
    """
    if not any(flawed) or all(flawed):
        raise ConfigRefused(
            f"{sum(flawed)} of {len(flawed)} images are flawed; a choice needs flawed and clean ones"
        )
    scores = []
    for question, said in verdicts.items():
        found = float(np.mean([one is True for one, bad in zip(said, flawed, strict=True) if bad]))
        cleared = float(np.mean([one is False for one, bad in zip(said, flawed, strict=True) if not bad]))
        unclear = sum(one is None for one in said)
        scores.append(Score(question, (found + cleared) / 2, found, cleared, unclear))
    return sorted(scores, key=lambda score: (-score.accuracy, score.question.number))
