"""The models that stages open and train, on one device. Tests replace single methods (`tests/fakes.py`).

Heavy libraries are imported when a method is called.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dataengine.errors import InputRefused, ModelRefused
from dataengine.records import CLINIC
from pipelines.runtime.devices import release_memory

if TYPE_CHECKING:
    from dataengine.clinic.readers import Reader
    from dataengine.curation.config import PromptWriterConfig, VqaConfig
    from dataengine.diagnosis.detector import Detector
    from dataengine.quality.guard import Scorer
    from dataengine.treatment.config import WeightsConfig
    from dataengine.treatment.families.family import GeneratorFamily


class Categorizer(Protocol):
    """A VQA model or classifier that assigns categories to images."""

    name: str

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        """(category, confidence in [0, 1]) for each of the uint8 NHWC images."""
        ...


class AttributeReader(Protocol):
    """Checks whether images show what their prompts ask for."""

    def match(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Share of each prompt's attributes that its uint8 NHWC image shows, float in [0, 1], shape (N,)."""
        ...


DYNAMICS_FILE = "dynamics.json"
"""The only file in a checkpoint of score dynamics: their settings."""
VARIANCE_FILE = "bayesdiff.json"
"""In a checkpoint of a denoiser's variance: its settings, beside the posterior."""
QUESTION_FILE = "question.json"
"""The only file in a checkpoint of a yes/no question: its settings."""
ANSWERS = "answers"
"""Folder of the workspace that caches the answers of VQA models."""
BOXES_FILE = "boxes.json"
"""The only file in a checkpoint of a model that answers boxes: its settings."""
HIGHLIGHTER_FILE = "highlighter.json"
"""The configuration in a flaw highlighter's folder, instead of a detector's `detector.json`."""
LIKENESS = "likeness"
"""The kind of scorer that compares with images of an instance."""


class Models:
    """The functions of `dataengine` that stages use and tests replace."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        """The device of the models: "cpu" or "cuda:N"."""
        self.kept: dict[str, Detector] = {}
        """Cache of the last detector, by its checkpoint: a worker runs many shards with the same detector,
        and
        opening a SegFormer-b5 takes about a second."""

    def open_generator(self, location: str, lora: Path | None, weights: WeightsConfig) -> GeneratorFamily:
        """Open the generator in a folder or of a hub id, with the LoRA in folder `lora`. An earlier one that
        is no longer used is released first, so that memory never holds two."""
        import torch

        from dataengine.treatment.families.loading import load_family

        release_memory(self.device)
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
        """Open the detector in a folder. Raises `ModelRefused` for one that cannot predict maps of stored
        images."""
        from dataengine.diagnosis.detector import load_detector

        if (folder / DYNAMICS_FILE).is_file():
            raise ModelRefused(
                "score dynamics have no weights and must regenerate images; choose a trained detector here"
            )
        if (folder / VARIANCE_FILE).is_file():
            raise ModelRefused(
                "a denoiser's variance is measured while an image is made again; choose a trained detector"
            )
        if (folder / QUESTION_FILE).is_file():
            raise ModelRefused(
                "a yes/no question says whether an image is broken, but not where; choose a detector that "
                "predicts maps here"
            )
        if (folder / HIGHLIGHTER_FILE).is_file():
            from dataengine.diagnosis.flaw_activation import FlawHighlighter

            return FlawHighlighter.load(folder, self.device)
        if (folder / BOXES_FILE).is_file():
            from dataengine.diagnosis.box_detector import BoxDetector

            return BoxDetector.load(folder)
        return load_detector(folder, self.device)

    def artifact_maps(self, detector: Detector, images: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
        """Maps, float32 HW in [0, 1], of uint8 HWC images."""
        from dataengine.diagnosis.detector import artifact_maps

        return artifact_maps(detector, images, batch)

    def encoder_features(self, detector: Detector, images: Sequence[np.ndarray], batch: int) -> np.ndarray:
        """Encoder features of uint8 HWC images, float32 (N, C)."""
        from dataengine.diagnosis.uncertainty import encoder_features

        return encoder_features(detector, images, batch)

    def train_detector(self, *arguments: Any, **named: Any) -> Any:
        """`dataengine.diagnosis.training.train_detector`."""
        from dataengine.diagnosis.training import train_detector

        return train_detector(*arguments, **named)

    def open_vqa(self, location: str, config: VqaConfig, keep: Path) -> Categorizer:
        """Open the VQA model in a folder, of a hub id or behind an endpoint's URL; its answers are cached in
        the folder `keep`. "clinic" is the embedded one."""
        if location == CLINIC:
            return _clinic_reader()
        from dataengine.curation.vqa import load_categorizer

        return load_categorizer(location, config, self.device, keep)

    def open_attributes(self, location: str) -> AttributeReader:
        """Open the attribute reader in a folder or of a hub id; "clinic" is the embedded one."""
        if location == CLINIC:
            return _clinic_reader()
        from dataengine.quality.attributes import ClipReader

        return ClipReader(location, self.device)

    def open_scorer(self, named: str) -> Scorer:
        """Open a preference model such as "pickscore:LOCATION" (`dataengine.quality.scorers.open_scorer`), or
        the likeness to an instance, "likeness:ENCODER#FOLDER"."""
        kind, _, instance = named.partition(":")
        if kind == LIKENESS:
            from dataengine.quality.likeness import open_likeness

            return open_likeness(instance, self.device)
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
        """Write `n` prompts for a category, none of `avoid`. Writer "" is the built-in grammar, "clinic" the
        embedded clinic's captions, anything else the folder, hub id or endpoint URL of a language model."""
        from dataengine.curation.prompts import GrammarWriter, load_model_writer

        if writer == CLINIC:
            return _captions(category, n, seed, avoid)
        prompt_writer = load_model_writer(writer, config, self.device) if writer else GrammarWriter()
        return prompt_writer.write(category, n, seed, avoid)


def real_models(device: str = "cpu") -> Models:
    """The real models; workers load this function by name."""
    return Models(device)


def _clinic_reader() -> Reader:
    from dataengine.clinic.models import reader_network
    from dataengine.clinic.parts import load_part
    from dataengine.clinic.readers import Reader, output_labels

    network = reader_network(output_labels())
    network.load_state_dict(load_part("readers"))
    return Reader(network)


def _captions(category: str, n: int, seed: int, avoid: Collection[str]) -> list[str]:
    """Captions of the embedded clinic's world, shuffled by seed. Raises `InputRefused` if there are too
    few."""
    from dataengine.clinic.world import CATEGORIES, all_prompts

    known = [prompt.text for prompt in all_prompts(category)] if category in CATEGORIES else []
    free = sorted(set(known) - set(avoid))
    if len(free) < n:
        raise InputRefused(
            f"the embedded clinic has {len(free)} unused captions of {category!r}, but {n} were requested; "
            "request fewer prompts per category"
        )
    return [free[i] for i in np.random.default_rng(seed).permutation(len(free))[:n]]
