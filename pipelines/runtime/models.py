"""What stages need from `dataengine`, opened when first used. Tests pass fakes, workers the real ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
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


@dataclass(frozen=True, kw_only=True)
class Models:
    """The doors into `dataengine` that stages go through."""

    open_generator: Callable[[str, Path | None, WeightsConfig], GeneratorFamily]
    """(folder or hub id, LoRA folder or None, how its weights lie in memory) -> generator."""
    open_detector: Callable[[Path], Detector]
    """Detector folder -> detector."""
    artifact_maps: Callable[[Detector, Sequence[np.ndarray], int], list[np.ndarray]]
    """(detector, uint8 HWC images, batch) -> float32 HW maps."""
    open_vqa: Callable[[str, VqaConfig, Path], Categorizer]
    """(folder, hub id or endpoint URL; question and table; where answers are kept) -> categorizer."""
    open_attributes: Callable[[str], AttributeReader]
    """Folder or hub id -> attribute reader."""
    open_scorer: Callable[[str], Scorer]
    """`dataengine.quality.scorers.open_scorer`: "pickscore:LOCATION", … -> preference model."""
    write_prompts: Callable[[str, int, int, Collection[str], str, PromptWriterConfig], list[str]]
    """(category, how many, seed, prompts to avoid, writer, how it is asked) -> prompts. Writer "" is the
    built-in grammar, "clinic" the drawn world's captions, anything else the folder, hub id or endpoint URL of
    a language model."""
    generate: Callable[..., np.ndarray]
    """(family, prompts, seeds, settings) -> uint8 NHWC: `dataengine.treatment.sampling.sampler.generate`.
    With `steppers` the sampling is corrected or guided."""
    train_detector: Callable[..., Any]
    """`dataengine.diagnosis.training.train_detector`."""
    evaluate_detector: Callable[..., Any]
    """`dataengine.diagnosis.training.evaluate_detector`."""
    view_variance: Callable[[Detector, Sequence[np.ndarray], Sequence[bool], int], list[float]]
    """`dataengine.diagnosis.uncertainty.view_variance`."""
    encoder_features: Callable[[Detector, Sequence[np.ndarray], int], np.ndarray]
    """`dataengine.diagnosis.uncertainty.encoder_features`."""
    treat: Callable[..., Any]
    """`dataengine.treatment.tuning.trainer.treat`."""
    device: str = "cpu"
    """Where models are put: "cpu" or "cuda:N"."""
    kept: dict[str, Detector] = field(default_factory=dict, init=False, compare=False, repr=False)
    """The detector that looked last, by its checkpoint: a worker's shards follow each other, and opening a
    SegFormer-b5 takes about a second."""


DYNAMICS_FILE = "dynamics.json"
"""What a checkpoint of score dynamics holds: their settings, and nothing else."""
QUESTION_FILE = "question.json"
"""What a checkpoint of a yes/no question holds."""
HIGHLIGHTER_FILE = "highlighter.json"
"""What a flaw highlighter's folder holds in place of a detector's configuration."""


def real_models(device: str = "cpu") -> Models:
    """The real doors. Nothing heavy is imported before one is used."""
    return Models(
        open_generator=partial(_open_generator, device),
        open_detector=partial(_open_detector, device),
        artifact_maps=_artifact_maps,
        open_vqa=partial(_open_vqa, device),
        open_attributes=partial(_open_attributes, device),
        open_scorer=partial(_open_scorer, device),
        write_prompts=partial(_write_prompts, device),
        generate=_generate,
        train_detector=_train_detector,
        evaluate_detector=_evaluate_detector,
        view_variance=_view_variance,
        encoder_features=_encoder_features,
        treat=_treat,
        device=device,
    )


def _open_generator(device: str, location: str, lora: Path | None, weights: WeightsConfig) -> GeneratorFamily:
    import torch

    from dataengine.treatment.families.loading import load_family

    return load_family(location, lora, device, getattr(torch, weights.precision), weights.bits)


def _open_detector(device: str, folder: Path) -> Detector:
    from dataengine.diagnosis.detector import load_detector

    if (folder / DYNAMICS_FILE).is_file():
        raise ModelRefused(
            "score dynamics have no weights and look only at images while they are drawn; "
            "choose a trained detector here"
        )
    if (folder / QUESTION_FILE).is_file():
        raise ModelRefused(
            "a yes/no question says whether an image is broken, not where; choose a detector with maps here"
        )
    if (folder / HIGHLIGHTER_FILE).is_file():
        from dataengine.diagnosis.flaw_activation import FlawHighlighter

        return FlawHighlighter.load(folder, device)
    return load_detector(folder, device)


def _artifact_maps(detector: Detector, images: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    from dataengine.diagnosis.detector import artifact_maps

    return artifact_maps(detector, images, batch)


def _open_vqa(device: str, location: str, config: VqaConfig, keep: Path) -> Categorizer:
    if location == CLINIC:
        return _clinic_reader()
    from dataengine.curation.vqa import load_categorizer

    return load_categorizer(location, config, device, keep)


def _open_attributes(device: str, location: str) -> AttributeReader:
    if location == CLINIC:
        return _clinic_reader()
    from dataengine.quality.attributes import ClipReader

    return ClipReader(location, device)


def _open_scorer(device: str, named: str) -> Scorer:
    from dataengine.quality.scorers import open_scorer

    return open_scorer(named, device)


def _clinic_reader() -> Reader:
    from dataengine.clinic.models import reader_network
    from dataengine.clinic.parts import load_part
    from dataengine.clinic.readers import Reader, labels

    network = reader_network(labels())
    network.load_state_dict(load_part("readers"))
    return Reader(network)


def _write_prompts(
    device: str,
    category: str,
    n: int,
    seed: int,
    avoid: Collection[str],
    writer: str,
    config: PromptWriterConfig,
) -> list[str]:
    from dataengine.curation.prompts import GrammarWriter, load_model_writer

    if writer == CLINIC:
        return _captions(category, n, seed, avoid)
    chosen = load_model_writer(writer, config, device) if writer else GrammarWriter()
    return chosen.write(category, n, seed, avoid)


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


def _generate(*arguments: Any, **named: Any) -> np.ndarray:
    from dataengine.treatment.sampling.sampler import generate

    return generate(*arguments, **named)


def _train_detector(*arguments: Any, **named: Any) -> Any:
    from dataengine.diagnosis.training import train_detector

    return train_detector(*arguments, **named)


def _evaluate_detector(*arguments: Any, **named: Any) -> Any:
    from dataengine.diagnosis.training import evaluate_detector

    return evaluate_detector(*arguments, **named)


def _view_variance(*arguments: Any) -> list[float]:
    from dataengine.diagnosis.uncertainty import view_variance

    return view_variance(*arguments)


def _encoder_features(*arguments: Any) -> np.ndarray:
    from dataengine.diagnosis.uncertainty import encoder_features

    return encoder_features(*arguments)


def _treat(*arguments: Any, **named: Any) -> Any:
    from dataengine.treatment.tuning.trainer import treat

    return treat(*arguments, **named)
