"""What stages need from `dataengine`, opened when first used. Tests pass fakes; the worker passes the real
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector
    from dataengine.treatment.families import GeneratorFamily


class Categorizer(Protocol):
    """A VQA model asked what an image shows."""

    name: str

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        """(category, confidence in [0, 1]) for each of the uint8 NHWC images."""
        ...


class AttributeReader(Protocol):
    """Checks whether images still show what was asked for."""

    def match(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Share of each prompt's attributes that its uint8 NHWC image shows, float in [0, 1], shape (N,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The doors into `dataengine` that stages go through."""

    open_generator: Callable[[str, Path | None], GeneratorFamily]
    """(folder or hub id, LoRA folder or None) -> generator."""
    open_detector: Callable[[Path], Detector]
    """Detector folder -> detector."""
    open_vqa: Callable[[str], Categorizer]
    """Folder or hub id -> categorizer."""
    open_attributes: Callable[[str], AttributeReader]
    """Folder or hub id -> attribute reader."""
    write_prompts: Callable[[str, int, int, Collection[str], str], list[str]]
    """(category, how many, seed, prompts to avoid, writer) -> prompts. Writer "" is the built-in grammar, "clinic" the
    drawn world's captions, anything else the folder or hub id of a language model."""
    generate: Callable[..., np.ndarray]
    """(family, prompts, seeds, settings) -> uint8 NHWC: `dataengine.treatment.sampling.generate`."""
    train_detector: Callable[..., Any]
    """`dataengine.diagnosis.training.train_detector`."""
    evaluate_detector: Callable[..., Any]
    """`dataengine.diagnosis.training.evaluate_detector`."""
    treat: Callable[..., Any]
    """`dataengine.treatment.tuning.treat`."""
    device: str = "cpu"
    """Where models are put: "cpu" or "cuda:N"."""
