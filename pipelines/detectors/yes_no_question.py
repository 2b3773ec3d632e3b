"""A yes/no question as a detector: a VQA model classifies whole images as broken or not (ASCED, Sec. 4.2).

Input: images, a VQA model, one of the paper's questions. Output: predictions without a map, of a detector
version that stands for model and question: 1 if the answer means an artifact, 0 if it means none, 0.5 if it
is
unclear. Cost: one answer per image; answers are cached.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from dataengine.curation.answers import AnswerCache
from dataengine.curation.config import QuestionConfig
from dataengine.curation.questions import Question, select_questions
from dataengine.curation.yes_no import YesNoDetector, vqa_config
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, Prediction
from pipelines.detectors import training_free
from pipelines.runtime.context import Context
from pipelines.runtime.images import batches_of_equal_size, read_readable
from pipelines.runtime.models import ANSWERS
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.curation.vqa import QuestionCategorizer


KIND = "yes/no question"
FIELD = "question"
UNCLEAR = 0.5


def question_id(config: QuestionConfig) -> str:
    """Id of the detector version that stands for model and question, known before it is registered."""
    return training_free.settings_id(KIND, config)


def get_or_register_detector(workspace: Workspace, config: QuestionConfig) -> DetectorVersion:
    """The detector version that stands for model and question, registered on first use."""
    model = config.model.rstrip("/").rpartition("/")[2]
    name = f"question {config.number} to {model}"
    return training_free.get_or_register_version(
        workspace, KIND, FIELD, config, name, licence="that of the model"
    )


def is_question(version: DetectorVersion | None) -> bool:
    """Whether the version is a question, which has no weights and predicts no maps."""
    return version is not None and version.config.get("kind") == KIND


def open_vqa_model(context: Context, model: str, question: Question) -> "QuestionCategorizer":
    """Open a VQA model. Raises `ConfigRefused` for an image classifier, which answers no questions."""
    opened = context.models.open_vqa(model, vqa_config(question), context.workspace.path / ANSWERS)
    if not hasattr(opened, "with_question"):
        raise ConfigRefused(
            f"{model} is an image classifier and answers no questions; give a VQA model or an endpoint"
        )
    return cast("QuestionCategorizer", opened)


def bind_question(
    context: Context, opened: "QuestionCategorizer", model: str, question: Question
) -> YesNoDetector:
    """A detector that asks the opened model one question and caches its answers."""
    cache = AnswerCache(context.workspace.path / ANSWERS, model, question.text)
    return YesNoDetector(opened.with_question(vqa_config(question), cache), question)


def iter_predictions(
    context: Context,
    version: DetectorVersion,
    images: Sequence[Image],
    batch: int,
    unreadable: list[str] | None = None,
) -> Iterator[list[Prediction]]:
    """Batches of predictions for the images, in any order; for `unreadable` see `read_readable`."""
    config = QuestionConfig.model_validate(version.config[FIELD])
    (question,) = select_questions((config.number,))
    detector = bind_question(context, open_vqa_model(context, config.model, question), config.model, question)
    for group in batches_of_equal_size(images, batch):
        readable, pixels = read_readable(context.workspace, group, unreadable)
        if readable:
            verdicts = detector.verdicts(np.stack(pixels))
            yield [
                _prediction(one.id, version.id, each) for one, each in zip(readable, verdicts, strict=True)
            ]


def _prediction(image_id: str, detector_id: str, broken: bool | None) -> Prediction:
    confidence = UNCLEAR if broken is None else float(broken)
    return Prediction(
        image_id=image_id,
        detector_id=detector_id,
        max=confidence,
        mean=confidence,
        uncertainty=4 * confidence * (1 - confidence),
    )
