"""The clinic's readers: an image's category, its attributes, and its plausibility.

One small image classifier in transformers' format predicts all three. Its labels are grouped by their names
(`category:hand`, `colour:red`, …); the label `plausible` stands alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import ResNetForImageClassification

from dataengine.clinic.world import ATTRIBUTES, CATEGORIES, Prompt, prompt_of

PLAUSIBLE = "plausible"
BATCH = 128


def output_labels() -> list[str]:
    """Names of the classifier's outputs."""
    groups = {"category": CATEGORIES, **ATTRIBUTES}
    return [f"{group}:{value}" for group, values in groups.items() for value in values] + [PLAUSIBLE]


def label_columns(names: Sequence[str]) -> dict[str, slice]:
    """The output columns of each question, that is of each group of labels."""
    columns: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        columns.setdefault(name.split(":")[0], []).append(i)
    return {group: slice(found[0], found[-1] + 1) for group, found in columns.items()}


class Reader:
    """Answers questions about drawings and generated images of the world, uint8 [N, H, W, 3]."""

    name = "clinic reader"

    def __init__(self, network: ResNetForImageClassification) -> None:
        self._network = network.eval().requires_grad_(False)
        names = [network.config.id2label[i] for i in range(network.config.num_labels)]
        self._groups = label_columns(names)
        self._values = {
            group: [n.partition(":")[2] for n in names[columns]] for group, columns in self._groups.items()
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a reader from a transformers folder (see `parts.materialise("readers", …)`)."""
        return cls(ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32))

    def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
        """(category, confidence in [0, 1]) of each image."""
        return self.answers(images, "category")

    def answers(self, images: np.ndarray, question: str) -> list[tuple[str, float]]:
        """(value, confidence in [0, 1]) of each image for a question: `category` or a key of `ATTRIBUTES`."""
        confidence, best = self._logits(images)[:, self._groups[question]].softmax(-1).max(-1)
        values = self._values[question]
        return [(values[int(i)], float(c)) for i, c in zip(best, confidence, strict=True)]

    def plausibility(self, images: np.ndarray) -> np.ndarray:
        """Image-level plausibility (absence of artifacts), float32 [N] in [0, 1]."""
        return self._logits(images)[:, self._groups[PLAUSIBLE]].sigmoid()[:, 0].numpy()

    def match(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Share of each prompt's attributes that its image shows, float32 [N] in [0, 1].

        A prompt that is no caption of the world names nothing to check and scores 1.
        """
        logits = self._logits(images)
        seen = {question: logits[:, columns].argmax(-1) for question, columns in self._groups.items()}
        return np.asarray(
            [self._share(seen, i, prompt_of(text)) for i, text in enumerate(prompts)], np.float32
        )

    def _share(self, seen: dict[str, Tensor], row: int, prompt: Prompt | None) -> float:
        if prompt is None:
            return 1.0
        asked = {"category": prompt.category, **prompt.attributes}
        return sum(self._values[q][int(seen[q][row])] == value for q, value in asked.items()) / len(asked)

    @torch.no_grad()
    def _logits(self, images: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        chunks = tensor.split(BATCH)
        return torch.cat(
            [self._network(pixel_values=normalise(chunk.float() / 255)).logits for chunk in chunks]
        )


def normalise(images: Tensor) -> Tensor:
    """Normalise images in [0, 1] to the classifier's input range."""
    return images * 2 - 1
