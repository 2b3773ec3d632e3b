"""A world of coloured squares: a tiny detector, a tiny generator and fake models, deterministic and quick.

A picture is a background in its category's colour; a flaw is a pure red square. The detector sees redness,
the treated generator paints fewer red squares. Torch is imported only by the doors that need tensors, so a
round of fakes runs without it; those doors pass the same contracts as the real parts.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.durable import write_text
from dataengine.errors import ConfigRefused, InputRefused, ModelRefused, Paused
from dataengine.records import (
    digest,
    not_pausing,
)
from pipelines.runtime.models import Models
from tests import faulty_store

__all__ = ["faulty_store"]
"""Whoever has these models knows the blob stores that fail on demand."""

SIDE = 32
SQUARE = 8
COLOURS = {"hand": (150, 120, 90), "face": (150, 140, 80), "house": (60, 120, 160), "tree": (40, 140, 60)}
FLAWED = {"hand": 0.9, "face": 0.7, "house": 0.2, "tree": 0.2}
TREATED = 0.1
FIRST, TRAINED = 0.2, 0.5
"""Redness from which the first and every trained detector suspect a pixel; 0.2 takes some hands for flaws."""
LORA = "pytorch_lora_weights.safetensors"


def random(*parts: object) -> np.random.Generator:
    """Numbers that depend on the parts alone."""
    return np.random.default_rng(int(digest(*parts, length=16), 16))


def category_of(prompt: str) -> str:
    """The category whose name the prompt holds."""
    return next((name for name in COLOURS if name in prompt), "tree")


def paint(prompt: str, seed: int, treated: bool = False, flawless: bool = False) -> np.ndarray:
    """A picture, uint8 HWC."""
    category = category_of(prompt)
    rng = random("paint", prompt, seed)
    pixels = np.array(COLOURS[category]) + rng.normal(0, 12, (SIDE, SIDE, 3))
    flawed = rng.random() < (TREATED if treated else 1.0) * FLAWED[category]
    y, x = rng.integers(0, SIDE - SQUARE, 2)
    if flawed and not flawless:
        pixels[y : y + SQUARE, x : x + SQUARE] = (250, 5, 5)
    return pixels.clip(0, 255).astype(np.uint8)


@dataclass
class TinyDetector:
    """Suspects redness. A folder holds its `detector.json`."""

    threshold: float = TRAINED
    name: str = "redness"

    @classmethod
    def open(cls, folder: Path) -> "TinyDetector":
        return cls(**json.loads((folder / "detector.json").read_text()))

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        about = {"threshold": self.threshold, "name": self.name}
        write_text(folder / "detector.json", json.dumps(about))
        return folder

    def find_artifacts(self, image: np.ndarray) -> np.ndarray:
        scaled = image.astype(np.float32) / 255
        redness = scaled[..., 0] - scaled[..., 1:].mean(-1)
        return (1 / (1 + np.exp(-12 * (redness - self.threshold)))).astype(np.float32)

    def confidence(self, images: Any) -> Any:
        redness = images[:, 0] - images[:, 1:].mean(1)
        return (12 * (redness - self.threshold)).sigmoid()

    def parameters(self) -> Iterator[Any]:
        return iter(())

    def requires_grad_(self, requires_grad: bool = True) -> "TinyDetector":
        return self

    def to(self, *args: Any, **kwargs: Any) -> "TinyDetector":
        return self

    def eval(self) -> "TinyDetector":
        return self


class TinyAdapter:
    """Two low-rank matrices over a mixture of channels."""

    reader = "squares"

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}
        self.scale = 1.0
        self._off = False

    def add(self, settings: Any, seed: int) -> None:
        import torch

        if self.weights:
            raise ConfigRefused("there already is an adapter")
        rng = torch.Generator().manual_seed(seed)
        self.scale = settings.alpha / settings.rank
        self._take(
            {
                "mix.lora_A": torch.randn((settings.rank, 6), generator=rng),
                "mix.lora_B": torch.zeros((3, settings.rank)),
            },
            trainable=True,
        )

    def _take(self, tensors: Mapping[str, Any], trainable: bool) -> None:
        from torch.nn import Parameter

        self.weights = {name: Parameter(each, requires_grad=trainable) for name, each in tensors.items()}

    def parameters(self) -> Mapping[str, Any]:
        return self.weights

    def delta(self) -> Any:
        """What is added to the mixture, (3, 6), or None."""
        if not self.weights or self._off:
            return None
        return self.scale * self.weights["mix.lora_B"] @ self.weights["mix.lora_A"]

    def save(self, folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: weight.detach().contiguous() for name, weight in self.weights.items()}
        save_file({**tensors, "scale": torch.tensor(self.scale)}, folder / LORA)

    def load(self, folder: Path, trainable: bool = False) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (folder / LORA).is_file():
            raise ModelRefused(f"{folder} must hold {LORA}")
        try:
            tensors = load_file(folder / LORA)
        except SafetensorError as error:
            raise ModelRefused(f"{folder / LORA} is no safetensors file") from error
        self.scale = float(tensors.pop("scale"))
        self._take(tensors, trainable)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self._off = True
        try:
            yield
        finally:
            self._off = False


@dataclass
class TinyGenerator:
    """Paints squares for the stages; as a `GeneratorFamily` it is one linear flow in pixels."""

    treated: bool = False
    adapter: TinyAdapter = field(default_factory=TinyAdapter)
    name: str = "squares"
    prediction: str = "flow"
    size: tuple[int, int] = (SIDE, SIDE)
    multiple: int = 8
    guidance: float = 0.0
    training_guidance: float = 0.0
    distilled: bool = False

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def modules(self) -> Mapping[str, Any]:
        return {}

    def to(self, device: Any) -> "TinyGenerator":
        return self

    def use_checkpointing(self) -> None:
        pass

    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        import torch

        from dataengine.treatment.families.diffusion import Conditioning

        rows = [random("prompt", prompt).normal(size=3) for prompt in prompts]
        return Conditioning({"colour": torch.tensor(np.array(rows), dtype=torch.float32)})

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        return []

    def blank_conditioning(self, count: int) -> Any:
        return self.encode_prompts([""] * count)

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Any:
        import torch

        shape = (3, *size)
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    def schedule(self, steps: int, latents: Any) -> Any:
        import torch

        from dataengine.treatment.families.diffusion import Schedule

        sigma = torch.linspace(1, 0, steps + 1)
        alpha = 1 - sigma
        return Schedule(
            times=sigma[:-1],
            alpha=alpha[:-1],
            sigma=sigma[:-1],
            next_alpha=alpha[1:],
            next_sigma=sigma[1:],
        )

    def random_times(self, count: int, rng: Any) -> Any:
        import torch

        return torch.rand(count, generator=rng)

    def levels(self, times: Any) -> tuple[Any, Any]:
        return 1 - times, times

    def predict(self, latents: Any, times: Any, conditioning: Any, guidance: float) -> Any:
        import torch

        colour = conditioning["colour"][:, :, None, None].expand_as(latents)
        mixture = torch.tensor(random("mixture").normal(0, 0.5, (3, 6)), dtype=torch.float32)
        delta = self.adapter.delta()
        mixture = mixture if delta is None else mixture + delta
        return torch.einsum("oc,nchw->nohw", mixture, torch.cat([latents, colour], 1))

    def decode(self, latents: Any) -> Any:
        return latents.sigmoid()

    def encode_images(self, images: Any) -> Any:
        return images.clamp(0.01, 0.99).logit()


class Liking:
    """A preference model that likes bright pictures."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return images.mean(axis=(1, 2, 3))


class Readers:
    """Answers from the background's colour."""

    name = "colours"

    def categories(self, images: np.ndarray) -> list[tuple[str, float]]:
        median = np.median(images.reshape(len(images), -1, 3), axis=1)
        names = list(COLOURS)
        distances = np.abs(median[:, None] - np.array(list(COLOURS.values()))).sum(-1)
        return [(names[int(row.argmin())], 0.9) for row in distances]

    def match(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        seen = self.categories(images)
        return np.array(
            [category == category_of(prompt) for (category, _), prompt in zip(seen, prompts, strict=True)],
            np.float32,
        )


@dataclass(frozen=True)
class Trained:
    """What fake training answers."""

    folder: Path
    losses: list[float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class FakeTreatment:
    """What fake treatment answers."""

    lora_folder: Path
    kept_step: int
    updates: int
    stopped_reason: str
    history: list[dict[str, Any]]
    figures: dict[str, float]
    reader: str = ""


class FakeModels(Models):
    """Models of the world of squares."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        replace_methods(
            self,
            open_generator=lambda location, lora, weights: TinyGenerator(treated=lora is not None),
            generate=generate,
            treat=treat,
            open_detector=TinyDetector.open,
            artifact_maps=lambda detector, images, batch: [detector.find_artifacts(each) for each in images],
            encoder_features=lambda detector, images, batch: np.stack([each.mean((0, 1)) for each in images]),
            train_detector=train_detector,
            open_vqa=lambda location, config, keep: Readers(),
            open_attributes=lambda location: Readers(),
            open_scorer=Liking,
            write_prompts=write_prompts,
        )


fake_models = FakeModels


def with_methods(models: Models, **methods: Any) -> Models:
    """The same models with some methods replaced, and no detector open yet."""
    changed = copy(models)
    changed.kept = {}
    replace_methods(changed, **methods)
    return changed


def replace_methods(models: Models, **methods: Any) -> None:
    """Replace methods in place. Raises `AttributeError` for a name that `Models` does not have."""
    for name, method in methods.items():
        getattr(Models, name)
        setattr(models, name, method)


def write_prompts(
    category: str, n: int, seed: int, avoid: Collection[str], writer: str, config: Any
) -> list[str]:
    """Numbered prompts, none of those to avoid."""
    known = (f"a {category}, number {seed % 1000 + number}" for number in range(10 * n + len(avoid) + 1))
    found = [text for text in known if text not in avoid][:n]
    if len(found) < n:
        raise InputRefused("too few prompts")
    return found


def generate(
    family: TinyGenerator, prompts: Sequence[str], seeds: Sequence[int], settings: Any, report: Any = None
) -> np.ndarray:
    """Pictures, uint8 NHWC."""
    return np.stack(
        [paint(prompt, seed, family.treated) for prompt, seed in zip(prompts, seeds, strict=True)]
    )


def train_detector(
    config: Any,
    samples: Any,
    start: Path,
    work: Path,
    report: Any,
    watch: Any = None,
    pausing: Any = not_pausing,
) -> Trained:
    """Look at some samples, a step at a time with the step kept in `work`, and suspect less."""
    position = work / "step"
    done = int(position.read_text()) if position.is_file() else 0
    losses = []
    for step in range(done, config.steps):
        sample = samples.sample(step % len(samples))
        losses.append(float(np.mean(sample.target)))
        report(step + 1, config.steps, "training", loss=losses[-1])
        write_text(position, str(step + 1))
        if pausing():
            raise Paused(f"paused after step {step + 1}")
    trained = TinyDetector(TRAINED, config.name)
    if watch is not None:
        watch(config.steps, trained)
    folder = trained.save(work / "detector")
    return Trained(folder=folder, losses=losses, metrics={"steps": config.steps})


def treat(
    config: Any,
    family: TinyGenerator,
    detector: TinyDetector,
    prompts: Sequence[str],
    clean_images: Any,
    clean_captions: Sequence[str],
    guard: Any,
    work: Path,
    report: Any,
    watch: Any = None,
    pausing: Any = not_pausing,
) -> FakeTreatment:
    """A LoRA folder that says "treated"; the given family carries it too, as after real tuning."""
    folder = work / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "treated.json", json.dumps({"updates": config.updates}))
    history: list[dict[str, Any]] = [
        {"update": step + 1, "loss": 1.0 / (1 + step)} for step in range(config.updates)
    ]
    for step in range(config.updates):
        report(step + 1, config.updates, "treating", loss=history[step]["loss"])
    for done in (0, config.updates) if watch is not None else ():
        family.treated = done > 0
        images = generate(family, guard.prompts, guard.seeds, config.sampling)
        watch(done, images, np.stack([detector.find_artifacts(each) for each in images]))
    family.treated = True
    return FakeTreatment(folder, config.updates, config.updates, "all updates done", history, {})
