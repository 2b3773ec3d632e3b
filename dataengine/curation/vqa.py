"""Image categories from a vision model (DiffDoctor).

Four kinds are supported: an image classifier of transformers, whose labels are the categories; and models
that are asked one question: image-text-to-text (Qwen-VL and the like), classic visual question answering
(ViLT, BLIP), or one behind an OpenAI-compatible endpoint. The answers are cached as text, and a table maps
them to categories.
"""

import logging
import re
from copy import copy
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from dataengine.curation.answers import AnswerCache
from dataengine.curation.config import VqaConfig
from dataengine.curation.endpoints import Endpoint, NoAnswer, image_part, is_endpoint
from dataengine.errors import ModelRefused, ServiceAbsent, reason_of
from dataengine.model_files import check_model_folder

OTHER = "other"
"""The category of an answer that names none."""
UNANSWERED = ""
"""In place of a category: the model gave no answer, and may be asked again."""
MOST_UNANSWERED = 8
"""Consecutive questions without an answer after which a model counts as unusable."""

log = logging.getLogger(__name__)


class ClassifierCategorizer:
    """An image classifier of transformers with its image processor."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor = processor

    @torch.no_grad()
    def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
        """(category, confidence in [0, 1]) of each of the uint8 NHW3 images; labels are the categories."""
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        confidence, best = self._model(**inputs).logits.float().softmax(-1).max(-1)
        names = self._model.config.id2label
        return [(names[int(i)], float(c)) for i, c in zip(best, confidence, strict=True)]


class Answerer(Protocol):
    """A model that answers a question about an image."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def answer(self, image: np.ndarray) -> str:
        """The answer about one uint8 HW3 image. Raises `NoAnswer` without one."""

    def with_question(self, config: VqaConfig) -> Self:
        """The same model with another question."""


class QuestionCategorizer:
    """A model, its question, and the table that maps answers to categories."""

    def __init__(self, answerer: Answerer, config: VqaConfig, kept: AnswerCache | None = None) -> None:
        self.name = answerer.name
        self.other = 0
        """Number of answers so far that name no category."""
        self._unanswered = 0
        self._problem = ""
        self._answerer = answerer
        self._config = config
        self._kept = kept

    def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
        """(category, confidence) of each of the uint8 NHW3 images; see `category_in`. (`UNANSWERED`, 0) where
        the model gives no answer.

        Raises `ServiceAbsent` when it gives none for several images, or `MOST_UNANSWERED` times in a row.
        """
        texts = [self.answer(image) for image in images]
        if len(texts) > 1 and all(text is None for text in texts):
            raise self._silent()
        answers = [
            category_in(text, self._config) if text is not None else (UNANSWERED, 0.0) for text in texts
        ]
        odd = sum(category == OTHER for category, _ in answers)
        if odd:
            self.other += odd
            log.info("%s: %d of %d answers name no category", self.name, odd, len(answers))
        return answers

    def with_question(self, config: VqaConfig, kept: AnswerCache | None = None) -> Self:
        """The same model with another question; its answers are cached separately."""
        return type(self)(self._answerer.with_question(config), config, kept)

    def answer(self, image: np.ndarray) -> str | None:
        """The model's answer about one uint8 HW3 image, from the cache if there is one; None without one."""
        known = None if self._kept is None else self._kept.get(image)
        if known is not None:
            return known
        try:
            answer = self._answerer.answer(image)
        except NoAnswer as error:
            self._unanswered += 1
            self._problem = str(error)
            log.warning("%s gave no usable answer (%d in a row): %s", self.name, self._unanswered, error)
            if self._unanswered >= MOST_UNANSWERED:
                raise self._silent() from error
            return None
        self._unanswered = 0
        if self._kept is not None and answer:
            self._kept.keep(image, answer)
        return answer

    def _silent(self) -> ServiceAbsent:
        return ServiceAbsent(
            f"{self.name} gave no usable answer to {self._unanswered} questions in a row ({self._problem}); "
            "nothing was stored for them. Change the settings or the model, then run the stage again"
        )


class _Asked:
    """An answerer with its question."""

    _config: VqaConfig

    def with_question(self, config: VqaConfig) -> Self:
        """See `Answerer.with_question`."""
        other = copy(self)
        other._config = config
        return other


class GenerativeAnswerer(_Asked):
    """An image-text-to-text model of transformers, without sampling."""

    def __init__(self, name: str, model: Any, processor: Any, config: VqaConfig) -> None:
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor = processor
        self._config = config

    @torch.no_grad()
    def answer(self, image: np.ndarray) -> str:
        """See `Answerer.answer`."""
        from PIL import Image

        content = [
            {"type": "image", "image": Image.fromarray(image)},
            {"type": "text", "text": self._config.question_text},
        ]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        output = self._model.generate(**inputs, max_new_tokens=self._config.new_tokens, do_sample=False)
        return self._processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class ClassicAnswerer(_Asked):
    """A visual-question-answering model of transformers: it chooses an answer (ViLT) or writes it (BLIP)."""

    def __init__(self, name: str, model: Any, processor: Any, config: VqaConfig) -> None:
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor = processor
        self._config = config

    @torch.no_grad()
    def answer(self, image: np.ndarray) -> str:
        """See `Answerer.answer`."""
        from PIL import Image

        inputs = self._processor(
            images=Image.fromarray(image),
            text=self._config.question_text,
            return_tensors="pt",
            truncation=True,
        ).to(self._model.device)
        if self._model.can_generate():
            output = self._model.generate(**inputs, max_new_tokens=self._config.new_tokens, do_sample=False)
            return self._processor.decode(output[0], skip_special_tokens=True)
        return str(self._model.config.id2label[int(self._model(**inputs).logits[0].argmax())])


class EndpointAnswerer(_Asked):
    """A vision model behind an OpenAI-compatible endpoint."""

    def __init__(self, endpoint: Endpoint, config: VqaConfig) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._config = config

    def answer(self, image: np.ndarray) -> str:
        """See `Answerer.answer`. Raises `ServiceAbsent` when the endpoint refuses or is not there."""
        content = [image_part(image), {"type": "text", "text": self._config.question_text}]
        return self._endpoint.complete(content, seed=0, new_tokens=self._config.new_tokens, temperature=0.0)


def category_in(answer: str, config: VqaConfig) -> tuple[str, float]:
    """The one category that an answer names, directly or through the table, with confidence 1.

    ("other", 0) when none or several are named.
    """
    words_text = _spaced(answer)
    words = {category: category for category in config.categories} | config.answers
    named = {category for word, category in words.items() if any(form in words_text for form in _forms(word))}
    return (named.pop(), 1.0) if len(named) == 1 else (OTHER, 0.0)


def _forms(category: str) -> tuple[str, str]:
    """The category's singular and plural, in the form of `_spaced`."""
    singular = _spaced(category)
    return singular, singular.rstrip() + "s "


def _spaced(text: str) -> str:
    """The words in lower case, one space before and after each."""
    return " " + " ".join(re.split(r"[\W_]+", text.lower())).strip() + " "


def load_categorizer(
    location: str | Path, config: VqaConfig | None = None, device: str = "cpu", keep: Path | None = None
) -> ClassifierCategorizer | QuestionCategorizer:
    """The categorizer for a folder, a hub id (safetensors only), or an endpoint's URL (see `Endpoint`).

    Text answers are cached in the folder `keep`. Raises `ModelRefused` when the model cannot be loaded or its
    configuration names no supported kind.
    """
    config = config or VqaConfig()
    kept = None if keep is None else AnswerCache(keep, str(location), config.question_text)
    if is_endpoint(location):
        endpoint = Endpoint(str(location), config.endpoint)
        return QuestionCategorizer(EndpointAnswerer(endpoint, config), config, kept)
    try:
        return _load_model(location, config, device, kept)
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"{location} cannot be loaded as a VQA model ({reason_of(error)}); give a folder or hub id with "
            "safetensors weights, or an endpoint's URL followed by # and the model's name"
        ) from error


def _load_model(
    location: str | Path, config: VqaConfig, device: str, kept: AnswerCache | None
) -> QuestionCategorizer | ClassifierCategorizer:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForImageTextToText,
        AutoModelForVisualQuestionAnswering,
        AutoProcessor,
    )

    if Path(location).is_dir():
        check_model_folder(Path(location))
    safe: Any = {"use_safetensors": True, "trust_remote_code": False}
    settings = AutoConfig.from_pretrained(location, trust_remote_code=False)
    kinds = settings.architectures or []
    name = Path(location).name
    if any(kind.endswith("ForImageClassification") for kind in kinds):
        model = AutoModelForImageClassification.from_pretrained(location, **safe)
        reader = AutoImageProcessor.from_pretrained(location, trust_remote_code=False)
        return ClassifierCategorizer(name, model.to(device), reader)
    answerer: Answerer
    if any(kind.endswith("ForQuestionAnswering") for kind in kinds):
        model = AutoModelForVisualQuestionAnswering.from_pretrained(location, **safe)
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
        answerer = ClassicAnswerer(name, model.to(device), processor, config)
    elif type(settings) in AutoModelForImageTextToText._model_mapping:
        model = AutoModelForImageTextToText.from_pretrained(location, **safe)
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
        answerer = GenerativeAnswerer(name, model.to(device), processor, config)
    else:
        raise ModelRefused(
            f"{location} is {', '.join(kinds) or 'of unknown kind'}; choose an image classifier, "
            "a visual-question-answering or image-text-to-text model, or an endpoint's URL"
        )
    return QuestionCategorizer(answerer, config, kept)
