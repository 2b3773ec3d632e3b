"""A yes/no question as a detector: a model says of whole images whether they are broken (ASCED, Sec. 4.2).

Input: images, a model that answers questions, one of the paper's questions. Output: predictions without a
map, under a detector version that stands for model and question: 1 where the answer means an artifact, 0
where it means none, one half where it is unclear. Cost: one answer an image; answers are kept.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from dataengine.curation.answers import AnswerCache
from dataengine.curation.config import QuestionConfig
from dataengine.curation.questions import Question, select_questions
from dataengine.curation.yes_no import YesNoDetector, vqa_config
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, Prediction
from pipelines.detectors import training_free
from pipelines.runtime.context import Context
from pipelines.runtime.images import batches_of_equal_size, read_stacked
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.curation.vqa import QuestionCategorizer


KIND = "yes/no question"
FIELD = "question"
ANSWERS = "answers"
"""Folder of the workspace in which the words of VQA models are kept, so that nothing is asked twice."""
UNCLEAR = 0.5


def question_id(config: QuestionConfig) -> str:
    """Id of the detector version that stands for model and question, known before it is registered."""
    return training_free.settings_id(KIND, config)


def get_or_register_detector(workspace: Workspace, config: QuestionConfig) -> DetectorVersion:
    """The detector version that stands for model and question; registered when it is first asked for."""
    model = config.model.rstrip("/").rpartition("/")[2]
    name = f"question {config.number} to {model}"
    return training_free.get_or_register_version(
        workspace, KIND, FIELD, config, name, licence="that of the model"
    )


def is_question(version: DetectorVersion | None) -> bool:
    """Whether the version is a question, which has no weights to open and no map to give."""
    return version is not None and version.config.get("kind") == KIND


def open_vqa_model(context: Context, model: str, question: Question) -> "QuestionCategorizer":
    """The model. Raises `ConfigRefused` for one that classifies and answers no question."""
    found = context.models.open_vqa(model, vqa_config(question), context.workspace.path / ANSWERS)
    if not hasattr(found, "asking"):
        raise ConfigRefused(
            f"{model} classifies images and answers no question; give a VQA model or an endpoint"
        )
    return cast("QuestionCategorizer", found)


def bind_question(
    context: Context, found: "QuestionCategorizer", model: str, question: Question
) -> YesNoDetector:
    """The opened model asked one question, its answers kept."""
    kept = AnswerCache(context.workspace.path / ANSWERS, model, question.text)
    return YesNoDetector(found.with_question(vqa_config(question), kept), question)


def iter_predictions(
    context: Context, version: DetectorVersion, images: Sequence[Image], batch: int
) -> Iterator[list[Prediction]]:
    """Batches of predictions for the images, in an order of their own."""
    config = QuestionConfig.model_validate(version.config[FIELD])
    (question,) = select_questions((config.number,))
    detector = bind_question(context, open_vqa_model(context, config.model, question), config.model, question)
    for group in batches_of_equal_size(images, batch):
        said = detector.verdicts(read_stacked(context.workspace, group))
        yield [_prediction(image.id, version.id, one) for image, one in zip(group, said, strict=True)]


def _prediction(image_id: str, detector_id: str, broken: bool | None) -> Prediction:
    sure = UNCLEAR if broken is None else float(broken)
    return Prediction(
        image_id=image_id, detector_id=detector_id, max=sure, mean=sure, uncertainty=4 * sure * (1 - sure)
    )
