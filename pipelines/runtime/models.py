"""The models that stages open and train, on one device. Tests replace single methods (`tests/fakes.py`).

Nothing heavy is imported before a method is called.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dataengine.errors import InputRefused, ModelRefused
from pipelines.config import CLINIC

if TYPE_CHECKING:
    from dataengine.clinic.readers import Reader
    from dataengine.curation.config import PromptWriterConfig, VqaConfig
    from dataengine.diagnosis.detector import Detector
    from dataengine.quality.guard import Scorer
    from dataengine.treatment.config import WeightsConfig
    from dataengine.treatment.families.family import GeneratorFamily


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


DYNAMICS_FILE = "dynamics.json"
"""What a checkpoint of score dynamics holds: their settings, and nothing else."""
QUESTION_FILE = "question.json"
"""What a checkpoint of a yes/no question holds."""
HIGHLIGHTER_FILE = "highlighter.json"
"""What a flaw highlighter's folder holds in place of a detector's configuration."""


class Models:
    """What stages need of `dataengine` and tests replace; anything else they import themselves."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        """Where models are put: "cpu" or "cuda:N"."""
        self.kept: dict[str, Detector] = {}
        """The detector that was used last, by its checkpoint: a worker's shards follow each other, and
        opening a SegFormer-b5 takes about a second."""

    def open_generator(self, location: str, lora: Path | None, weights: WeightsConfig) -> GeneratorFamily:
        """The generator in a folder or of a hub id, with the LoRA of a folder."""
        import torch

        from dataengine.treatment.families.loading import load_family

        return load_family(location, lora, self.device, getattr(torch, weights.precision), weights.bits)

    def generate(self, *arguments: Any, **named: Any) -> np.ndarray:
        """(family, prompts, seeds, settings) -> uint8 NHWC: `sampling.sampler.generate`."""
        from dataengine.treatment.sampling.sampler import generate

        return generate(*arguments, **named)

    def treat(self, *arguments: Any, **named: Any) -> Any:
        """`dataengine.treatment.tuning.trainer.treat`."""
        from dataengine.treatment.tuning.trainer import treat

        return treat(*arguments, **named)

    def open_detector(self, folder: Path) -> Detector:
        """The detector of a folder. Raises `ModelRefused` for one that gives no maps of stored images."""
        from dataengine.diagnosis.detector import load_detector

        if (folder / DYNAMICS_FILE).is_file():
            raise ModelRefused(
                "score dynamics have no weights and need images while they are generated; "
                "choose a trained detector here"
            )
        if (folder / QUESTION_FILE).is_file():
            raise ModelRefused(
                "a yes/no question says whether an image is broken, not where; choose a detector with maps "
                "here"
            )
        if (folder / HIGHLIGHTER_FILE).is_file():
            from dataengine.diagnosis.flaw_activation import FlawHighlighter

            return FlawHighlighter.load(folder, self.device)
        return load_detector(folder, self.device)

    def artifact_maps(self, detector: Detector, images: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
        """Maps, float32 HW in [0, 1], of uint8 HWC images."""
        from dataengine.diagnosis.detector import artifact_maps

        return artifact_maps(detector, images, batch)

    def encoder_features(self, detector: Detector, images: Sequence[np.ndarray], batch: int) -> np.ndarray:
        """One vector for each of the uint8 HWC images, float32 (N, C)."""
        from dataengine.diagnosis.uncertainty import encoder_features

        return encoder_features(detector, images, batch)

    def train_detector(self, *arguments: Any, **named: Any) -> Any:
        """`dataengine.diagnosis.training.train_detector`."""
        from dataengine.diagnosis.training import train_detector

        return train_detector(*arguments, **named)

    def evaluate_detector(self, *arguments: Any, **named: Any) -> Any:
        """`dataengine.diagnosis.training.evaluate_detector`."""
        from dataengine.diagnosis.training import evaluate_detector

        return evaluate_detector(*arguments, **named)

    def open_vqa(self, location: str, config: VqaConfig, keep: Path) -> Categorizer:
        """The VQA model in a folder, of a hub id or behind an endpoint's URL; its answers are kept in `keep`.
        "clinic" is the embedded one."""
        if location == CLINIC:
            return _clinic_reader()
        from dataengine.curation.vqa import load_categorizer

        return load_categorizer(location, config, self.device, keep)

    def open_attributes(self, location: str) -> AttributeReader:
        """The attribute reader in a folder or of a hub id; "clinic" is the embedded one."""
        if location == CLINIC:
            return _clinic_reader()
        from dataengine.quality.attributes import ClipReader

        return ClipReader(location, self.device)

    def open_scorer(self, named: str) -> Scorer:
        """The preference model of "pickscore:LOCATION", …: `dataengine.quality.scorers.open_scorer`."""
        from dataengine.quality.scorers import open_scorer

        return open_scorer(named, self.device)

    def write_prompts(
        self,
        category: str,
        n: int,
        seed: int,
        avoid: Collection[str],
        writer: str,
        config: PromptWriterConfig,
    ) -> list[str]:
        """`n` prompts for a category, none of `avoid`. Writer "" is the built-in grammar, "clinic" the drawn
        world's captions, anything else the folder, hub id or endpoint URL of a language model."""
        from dataengine.curation.prompts import GrammarWriter, load_model_writer

        if writer == CLINIC:
            return _captions(category, n, seed, avoid)
        chosen = load_model_writer(writer, config, self.device) if writer else GrammarWriter()
        return chosen.write(category, n, seed, avoid)


def real_models(device: str = "cpu") -> Models:
    """The models themselves: what workers load by name."""
    return Models(device)


def _clinic_reader() -> Reader:
    from dataengine.clinic.models import reader_network
    from dataengine.clinic.parts import load_part
    from dataengine.clinic.readers import Reader, output_labels

    network = reader_network(output_labels())
    network.load_state_dict(load_part("readers"))
    return Reader(network)


def _captions(category: str, n: int, seed: int, avoid: Collection[str]) -> list[str]:
    """Captions of the drawn world in an order of the seed's own. Raises `InputRefused` when they run out."""
    from dataengine.clinic.world import CATEGORIES, all_prompts

    known = [prompt.text for prompt in all_prompts(category)] if category in CATEGORIES else []
    free = sorted(set(known) - set(avoid))
    if len(free) < n:
        raise InputRefused(
            f"the clinic's world has {len(free)} unused captions of {category!r} and {n} were asked for; "
            "ask for fewer prompts per category"
        )
    return [free[i] for i in np.random.default_rng(seed).permutation(len(free))[:n]]
