"""Self-refining diffusion: the last part of a generator's own training uses maps of its flaws.

For every `Refinable` family: DDPM and improved DDPM in pixels, Stable Diffusion and DiT in latents. Base
phase: ordinary training. Refinement phase: the mean flaw activation map of the model's own samples, mFAM, is
added to the noise (in pixels only) and modulates keys and values of self-attention; it is recomputed every
`cycle` updates. With something that measures images, the refinement stops when they become worse. The
result is a stock pipeline without any of this.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine import durable
from dataengine.diagnosis.flaw_activation import (
    SMALLEST,
    FlawHighlighter,
    map_variation,
    mean_map,
    train_highlighter,
)
from dataengine.diagnosis.training import average_decay
from dataengine.errors import ConfigRefused, NonFinite, Paused
from dataengine.records import Report, no_report, not_pausing
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.catalog import FAMILIES
from dataengine.treatment.families.diffusion import add_noise, training_target
from dataengine.treatment.families.family import GeneratorFamily, Refinable
from dataengine.treatment.refining.config import RefiningConfig
from dataengine.treatment.refining.modulation import KeyValueModulation
from dataengine.treatment.refining.variance import variational_bound
from dataengine.treatment.sampling.sampler import as_tensor, autocast, draw, encode
from dataengine.treatment.tuning import progress as keeping

HIGHLIGHTER, RESULT = "highlighter", "pipeline"
MFAM = "mfam"
FORWARD = 0.01
"""The paper's λ of the noise, in pixels."""
FEWEST_IMAGES = 10
"""Fewest images of each class for a highlighter."""
MAP_BATCH = 16
"""Batch size for flaw maps."""
VARIATION, DECIDING = "variation", "kid"
ADDED = ("least_variation", "measured", "measure_every", "patience")
ADDED_OF_HIGHLIGHTER = ("betas", "keep", "head", "cam", "level", "mean", "std")
"""Settings that are no part of a run's identity while they have their defaults: runs begun before there were
any are resumed."""

Measure = Callable[[np.ndarray], Mapping[str, float]]
"""Distances of the model's images, uint8 NHW3, to held-out ones, by name; "kid" decides, lower is better."""


@dataclass(frozen=True)
class Refined:
    """The result of a training: a folder that the stock pipeline loads, and its measurements."""

    folder: Path
    losses: list[float]
    maps: int
    """How many times mFAM was computed."""
    variation: float | None = None
    """Mean of the flaw maps' variation between images (`map_variation`); None without maps."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Distances after the base phase; empty without a measure."""
    after: Mapping[str, float] = field(default_factory=dict)
    """Distances of the saved weights."""
    stopped: str = ""
    """Why the training stopped early; empty if it did not."""


@dataclass(frozen=True)
class Subject:
    """The identity of a run: what is trained, and on what."""

    config: RefiningConfig
    family: Refinable
    modulation: KeyValueModulation
    images: np.ndarray
    prompts: Sequence[str]
    forward: float
    """λ of the noise."""
    weights: dict[str, nn.Parameter] = field(default_factory=dict)


def refining_noise(noise: Tensor, mfam: Tensor, strength: float) -> Tensor:
    """ε_sr = ε + λ·M, with M float HW over all images and channels alike."""
    return noise + strength * mfam.to(noise)


def multiplied_noise(noise: Tensor, mfam: Tensor, strength: float) -> Tensor:
    """ε·(1 + λ·M), with M float HW over all images and channels alike (Guided-Diffusion repository)."""
    return noise * (1 + strength * mfam.to(noise))


def noise_and_target(noise: Tensor, mfam: Tensor | None, strength: float, form: str) -> tuple[Tensor, Tensor]:
    """(the noise for x_t, the model's target), NCHW, by the form of `RefiningConfig`."""
    if mfam is None or strength == 0:
        return noise, noise
    if form == "multiplied":
        return multiplied_noise(noise, mfam, strength), noise
    raised = refining_noise(noise, mfam, strength)
    return (noise if form == "target" else raised), (noise if form == "state" else raised)


def refine(
    config: RefiningConfig,
    family: GeneratorFamily,
    images: np.ndarray,
    work: Path,
    prompts: Sequence[str] = (),
    report: Report = no_report,
    pausing: Callable[[], bool] = not_pausing,
    measure: Measure | None = None,
) -> Refined:
    """Train the family's denoiser on images uint8 NHW3 of its size and their prompts: base phase, then
    refinement, which stops after `patience` measurements in a row that are worse than the best, whose weights
    are then kept. At the end the family carries the averaged weights that were saved.

    Called again with the same `work` it resumes, with the losses of an uninterrupted run. Raises
    `ConfigRefused` for a generator that cannot be refined, for images of another size, and for a `work` of
    another run; `NonFinite` naming the step; `Paused`, with all updates kept, when `pausing` returns true
    after an update.
    """
    subject = _subject(config, family, images, prompts)
    optimizer = torch.optim.AdamW(subject.weights.values(), lr=config.lr)
    identity = identity_of(config, family.name, len(images), subject.prompts)
    state = keeping.restore(subject.weights, optimizer, identity, work) or keeping.Progress(
        kept={name: weight.detach().clone() for name, weight in subject.weights.items()}
    )
    state.kept = {name: each.to(subject.family.device) for name, each in state.kept.items()}
    base = config.steps - round(config.steps * config.refinement)
    highlighter, stopped = None, ""
    with _training(subject):
        for step in range(state.done, config.steps):
            figures: dict[str, float] = {}
            if measure and step >= base and (step - base) % config.measure_every == 0:
                figures |= measure(_measured(subject, state.kept))
                if stopped := _keep_best(state, figures, config.patience):
                    break
            if step >= base and (step - base) % config.cycle == 0:
                highlighter = highlighter or _highlighter(subject, state.kept, work, report)
                maps = _flaw_maps(subject, state.kept, highlighter, step)
                state.kept[MFAM] = mean_map(maps)
                figures[VARIATION] = map_variation(maps)
            mfam = state.kept.get(MFAM) if step >= base else None
            loss = _update(subject, optimizer, mfam, step)
            _average(subject, state.kept, step)
            state.done = step + 1
            state.history.append({"loss": loss, **figures})
            paused = pausing() and state.done < config.steps
            if paused or state.done % config.checkpoint_every == 0 or state.done == config.steps:
                keeping.save(state, subject.weights, optimizer, identity, work)
            report(state.done, config.steps, "refining" if step >= base else "training", loss=loss)
            if paused:
                raise Paused(f"paused after {state.done} updates; all of them are kept")
    final = {**state.kept, **state.old} if stopped else state.kept
    after = dict(measure(_measured(subject, final))) if measure else {}
    keeping.set_weights(final, subject.weights)
    variations = [each[VARIATION] for each in state.history if VARIATION in each]
    return Refined(
        folder=_published(subject.family, work),
        losses=[each["loss"] for each in state.history],
        maps=max(0, -(-(state.done - base) // config.cycle)),
        variation=float(np.mean(variations)) if variations else None,
        before={
            name: value
            for name, value in (state.history[base] if base < len(state.history) else after).items()
            if name in after
        },
        after=after,
        stopped=stopped,
    )


def worse_in_a_row(distances: Sequence[float]) -> int:
    """How many of the last distances are above the lowest one."""
    return len(distances) - 1 - int(np.argmin(distances))


def _keep_best(state: keeping.Progress, figures: Mapping[str, float], patience: int) -> str:
    """Keep the averaged weights if their distance is the lowest so far; why to stop, or empty."""
    known = [each[DECIDING] for each in state.history if DECIDING in each]
    worse = worse_in_a_row([*known, figures[DECIDING]])
    if worse == 0 and patience:
        state.old = {name: weight.detach().cpu().clone() for name, weight in state.kept.items()}
    if not patience or worse < patience:
        return ""
    return (
        f"stopped after {state.done} updates: KID to held-out images was above its lowest, "
        f"{min(known):.5f}, in {worse} measurements in a row; the weights of the lowest are kept"
    )


def same_place(variation: float | None, least: float) -> str:
    """One sentence if the flaw maps vary too little between images; otherwise empty."""
    if variation is None or variation >= least:
        return ""
    return (
        f"The flaw maps mark the same place in every image (variation between images {variation:.3f}, below "
        f"{least:g}), so they do not say where an image's flaws are."
    )


def _subject(
    config: RefiningConfig, family: GeneratorFamily, images: np.ndarray, prompts: Sequence[str]
) -> Subject:
    """Raise `ConfigRefused` for anything that would fail later, or be ignored."""
    if not isinstance(family, Refinable):
        raise ConfigRefused(
            f"{family.name} cannot be refined; the families that can: "
            f"{', '.join(name for name, facts in FAMILIES.items() if facts.refinable)}"
        )
    if images.ndim != 4 or images.shape[1:] != (*family.size, 3) or not len(images):
        raise ConfigRefused(f"got images of shape {images.shape}; this generator's are {(*family.size, 3)}")
    if prompts and len(prompts) != len(images):
        raise ConfigRefused(f"got {len(images)} images and {len(prompts)} prompts; each image needs one")
    weights = dict(family.denoiser.named_parameters())
    if any(weight.dtype != torch.float32 for weight in weights.values()):
        raise ConfigRefused("only float32 weights can be trained: open the generator with precision float32")
    if config.refinement:
        _refuse_blind_highlighter(config, images)
    modulation = KeyValueModulation(
        family.denoiser, config.reverse if config.refinement else 0.0, config.seed
    )
    modulation.to(family.device)
    if config.checkpointing:
        family.use_checkpointing()
    return Subject(
        config=config,
        family=family,
        modulation=modulation,
        images=images,
        prompts=prompts or [""] * len(images),
        forward=_forward(config, family),
        weights={
            **{f"denoiser.{name}": each for name, each in weights.items()},
            **{f"kv.{name}": each for name, each in modulation.named_parameters()},
        },
    )


def _forward(config: RefiningConfig, family: Refinable) -> float:
    latent = not {"vae", "vqvae"}.isdisjoint(family.modules())
    if latent and config.forward:
        raise ConfigRefused(
            f"mFAM is in pixels and {family.name} adds noise to latents, so only keys and values are "
            "modulated: omit forward, or set it to 0"
        )
    return (0.0 if latent else FORWARD) if config.forward is None else config.forward


def _refuse_blind_highlighter(config: RefiningConfig, images: np.ndarray) -> None:
    count = min(config.highlighted, len(images))
    if count < FEWEST_IMAGES or min(images.shape[1:3]) < SMALLEST:
        raise ConfigRefused(
            f"got {count} images of {images.shape[1]} × {images.shape[2]} pixels; the flaw "
            f"highlighter needs {FEWEST_IMAGES} of {SMALLEST} × {SMALLEST} or more"
        )


def identity_of(config: RefiningConfig, family: str, images: int, prompts: Sequence[str]) -> str:
    """The identity of a run, so that a folder is not resumed by another run."""
    prompts_hash = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    settings = config.model_dump(mode="json")
    for section, given, added in (
        (settings, config, ADDED),
        (settings["highlighter"], config.highlighter, ADDED_OF_HIGHLIGHTER),
    ):
        for name in added:
            if getattr(given, name) == type(given).model_fields[name].default:
                del section[name]
    return json.dumps([settings, family, images, prompts_hash])


@contextmanager
def _training(subject: Subject) -> Iterator[None]:
    """Context in which the denoiser is trainable; afterwards it is frozen again."""
    from diffusers.models.embeddings import LabelEmbedding

    network = subject.family.denoiser.requires_grad_(True).train()
    for layer in network.modules():
        # Classes are dropped by `_training_prompts`.
        if isinstance(layer, LabelEmbedding):
            layer.eval()
    try:
        yield
    finally:
        network.requires_grad_(False).eval()


def _update(subject: Subject, optimizer: torch.optim.Optimizer, mfam: Tensor | None, step: int) -> float:
    """One update; returns its loss. Its random numbers depend on the seed and the step only."""
    seed, device = keeping.seed_of(subject.config.seed, step), subject.family.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with subject.modulation.attached(mfam):
            loss = _loss(subject, mfam, torch.Generator().manual_seed(seed))
            if not torch.isfinite(loss):
                raise NonFinite("the loss", step)
            optimizer.zero_grad()
            loss.backward()
    nn.utils.clip_grad_norm_(subject.weights.values(), 1.0)
    optimizer.step()
    return loss.item()


def _loss(subject: Subject, mfam: Tensor | None, rng: torch.Generator) -> Tensor:
    """The denoising loss of one batch, plus that of the variance if it is learned (improved DDPM, Eq. 16)."""
    config, family = subject.config, subject.family
    rows = torch.randint(len(subject.images), (config.batch,), generator=rng)
    clean = family.encode_images(as_tensor(subject.images[rows.numpy()]).to(family.device))
    noise = torch.randn(clean.shape, generator=rng).to(clean)
    times = family.random_times(config.batch, rng)
    added, target_noise = noise_and_target(noise, mfam, subject.forward, config.form)
    state = add_noise(clean, added, *family.levels(times))
    conditioning = family.encode_prompts(_training_prompts(subject, rows, rng))
    with autocast(family.device, config.precision):
        output = family.raw_output(state, times, conditioning)
    output, share = output[:, : clean.shape[1]].float(), output[:, clean.shape[1] :].float()
    loss = F.mse_loss(output, training_target(family.prediction, clean, target_noise))
    if share.shape[1]:
        bound = variational_bound(clean, state, output, share, times, family.betas)
        loss = loss + config.bound * len(family.betas) * bound.mean()
    return loss


def _training_prompts(subject: Subject, rows: Tensor, rng: torch.Generator) -> list[str]:
    """The conditioning of the images' prompts, some of them dropped for classifier-free guidance."""
    dropped = torch.rand(len(rows), generator=rng) < subject.config.dropped
    return [
        "" if drop else subject.prompts[row]
        for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True)
    ]


@torch.no_grad()
def _average(subject: Subject, average: dict[str, Tensor], step: int) -> None:
    decay = average_decay(subject.config.ema, step)
    for name, weight in subject.weights.items():
        average[name].lerp_(weight.detach(), 1 - decay)


@contextmanager
def _averaged(subject: Subject, average: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which the network has its averaged weights, without dropout."""
    present = {name: weight.detach().clone() for name, weight in subject.weights.items()}
    modes = {layer: layer.training for layer in subject.family.denoiser.modules()}
    keeping.set_weights(average, subject.weights)
    subject.family.denoiser.eval()
    try:
        yield
    finally:
        keeping.set_weights(present, subject.weights)
        for layer, training in modes.items():
            layer.training = training


def _flaw_maps(
    subject: Subject, average: Mapping[str, Tensor], highlighter: FlawHighlighter, step: int
) -> Tensor:
    """The flaw activation maps of a batch of the averaged model's own images, float NHW."""
    own = as_tensor(sample_images(subject, average, subject.config.batch, step)).to(subject.family.device)
    return torch.cat([highlighter.activation_maps(part) for part in own.split(MAP_BATCH)])


def _measured(subject: Subject, average: Mapping[str, Tensor]) -> np.ndarray:
    """The images that are compared with held-out ones, of the same seeds and prompts in every measurement."""
    return sample_images(subject, average, subject.config.measured, subject.config.steps + 1)


def sample_images(subject: Subject, average: Mapping[str, Tensor], count: int, step: int) -> np.ndarray:
    """Images of the averaged model, uint8 NHW3, by a few DDIM steps and prompts of some images."""
    config = subject.config
    rng = torch.Generator().manual_seed(keeping.seed_of(config.seed, step, 1))
    rows = torch.randint(len(subject.images), (count,), generator=rng).tolist()
    seeds = [keeping.seed_of(config.seed, step, 2, row) for row in range(count)]
    settings = SamplingConfig(steps=config.sample_steps, batch=config.batch, precision=config.precision)
    conditioning = encode(subject.family, [subject.prompts[row] for row in rows])
    with _averaged(subject, average):
        return draw(subject.family, conditioning, seeds, settings)


def _highlighter(
    subject: Subject, average: Mapping[str, Tensor], work: Path, report: Report
) -> FlawHighlighter:
    """The flaw highlighter, trained once, when refinement begins, on real and generated images."""
    config, device, folder = subject.config, subject.family.device, work / HIGHLIGHTER
    if not folder.is_dir():
        count = min(config.highlighted, len(subject.images))
        own = sample_images(subject, average, count, config.steps)
        network, _ = train_highlighter(config.highlighter, subject.images[:count], own, report, device)
        part = work / f".{HIGHLIGHTER}.part"
        network.save(part)
        durable.move(part, folder)
    return FlawHighlighter.load(folder, device)


def _published(family: Refinable, work: Path) -> Path:
    """Save the stock pipeline with the trained network, complete or not at all."""
    part, result = work / f".{RESULT}.part", work / RESULT
    for folder in (part, result):
        shutil.rmtree(folder, ignore_errors=True)
    family.pipeline.save_pretrained(part)
    durable.move(part, result)
    return result
