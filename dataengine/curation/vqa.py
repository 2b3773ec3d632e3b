"""What an image shows, asked of a vision model: the categories of METHODS 1b.

Two kinds of transformers models answer: an image classifier, whose labels are the categories, and a
generative image-text-to-text model (Qwen-VL and the like), which is given one closed question.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.curation.config import VqaConfig
from dataengine.errors import ModelRefused

OTHER = "other"
"""The category of an answer that fits none."""


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


class QuestionCategorizer:
    """A generative model that is asked one question and must choose among the categories."""

    def __init__(self, name: str, model: Any, processor: Any, config: VqaConfig) -> None:
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor = processor
        self._config = config

    def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
        """(category, confidence) of each of the uint8 NHW3 images; see `category_in`."""
        answers = [self.answer(image) for image in images]
        return [category_in(answer, self._config.categories) for answer in answers]

    @torch.no_grad()
    def answer(self, image: np.ndarray) -> str:
        """The model's words about one uint8 HW3 image, without sampling."""
        from PIL import Image

        choices = ", ".join(self._config.categories)
        question = f"{self._config.question} Answer with exactly one of: {choices}."
        content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": question}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        output = self._model.generate(**inputs, max_new_tokens=12, do_sample=False)
        return self._processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def category_in(answer: str, categories: Sequence[str]) -> tuple[str, float]:
    """The one category named in an answer, with confidence 1; ("other", 0) when none or several are."""
    said = _spaced(answer)
    named = [category for category in categories if any(form in said for form in _forms(category))]
    return (named[0], 1.0) if len(named) == 1 else (OTHER, 0.0)


def _forms(category: str) -> tuple[str, str]:
    """The category in singular and plural, as `_spaced` text."""
    singular = _spaced(category)
    return singular, singular.rstrip() + "s "


def _spaced(text: str) -> str:
    """The words alone, lower case, one space before and after each."""
    return " " + " ".join(re.split(r"[\W_]+", text.lower())).strip() + " "


def load_categorizer(
    location: str | Path, config: VqaConfig | None = None, device: str = "cpu"
) -> ClassifierCategorizer | QuestionCategorizer:
    """The categorizer for a folder or hub id, by what its configuration says it is; safetensors only.

    Raises `ModelRefused` when it is neither an image classifier nor an image-text-to-text model.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    settings = AutoConfig.from_pretrained(location)
    kinds = settings.architectures or []
    name = Path(location).name
    if any(kind.endswith("ForImageClassification") for kind in kinds):
        model = AutoModelForImageClassification.from_pretrained(location, use_safetensors=True)
        return ClassifierCategorizer(name, model.to(device), AutoImageProcessor.from_pretrained(location))
    if type(settings) in AutoModelForImageTextToText._model_mapping:
        model = AutoModelForImageTextToText.from_pretrained(location, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(location)
        return QuestionCategorizer(name, model.to(device), processor, config or VqaConfig())
    raise ModelRefused(
        f"{location} is {', '.join(kinds) or 'of unknown kind'}; "
        "give an image classifier or an image-text-to-text model"
    )
