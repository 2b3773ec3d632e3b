"""Self-refining diffusion (METHODS 4): the second half of a generator's own training minds its flaws.

For pixel-space noise predictors of diffusers (`UNet2DModel`: DDPM). Base phase: ordinary training.
Refinement phase: the mean flaw activation map of the model's own samples, mFAM, is added to the noise and
weighs keys and values of self-attention; it is refreshed every `cycle` updates. The result is a stock
pipeline: nothing of this is left in it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine.diagnosis.flaw_activation import FlawHighlighter, mean_map, train_highlighter
from dataengine.diagnosis.training import average_decay
from dataengine.errors import ConfigRefused, NonFinite
from dataengine.records import Report, silent
from dataengine.treatment import progress as keeping
from dataengine.treatment.config import RefiningConfig
from dataengine.treatment.sampling import as_tensor, as_uint8

HIGHLIGHTER, RESULT = "highlighter", "pipeline"
MFAM = "mfam"


@dataclass(frozen=True)
class Refined:
    """A finished training: a folder that `DDPMPipeline` and `DDIMPipeline` load, and what was measured."""

    folder: Path
    losses: list[float]
    maps: int
    """How many times mFAM was taken."""


def refining_noise(noise: Tensor, mfam: Tensor, strength: float) -> Tensor:
    """ε_sr = ε + λ·M, with M float HW over all images and channels alike."""
    return noise + strength * mfam.to(noise)


def noises(noise: Tensor, mfam: Tensor | None, config: RefiningConfig) -> tuple[Tensor, Tensor]:
    """(what noises x_0, what the model should answer): ε_sr for both, or for one of them alone."""
    if mfam is None or config.forward == 0:
        return noise, noise
    raised = refining_noise(noise, mfam, config.forward)
    return (noise if config.form == "target" else raised), (noise if config.form == "state" else raised)


class KeyValueModulation(nn.Module):
    """K and V of every self-attention, times 1 + λ·M_emb; each layer embeds mFAM by convolutions of its own.

    The layers are reached by hooks, whatever their attention processor, and only inside `attached`.
    """

    def __init__(self, network: nn.Module, strength: float, seed: int) -> None:
        """Finds diffusers' self-attentions in `network`."""
        from diffusers.models.attention_processor import Attention

        super().__init__()
        self.strength = strength
        self._layers = [
            layer
            for layer in network.modules()
            if isinstance(layer, Attention) and not layer.is_cross_attention
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = nn.ModuleList(_embedding() for _ in self._layers)

    @contextmanager
    def attached(self, mfam: Tensor | None) -> Iterator[None]:
        """Within it the layers are modulated by mFAM, float HW; not at all by None."""
        if mfam is None or self.strength == 0:
            yield
            return
        handles = []
        for layer, embedding in zip(self._layers, self.embeddings, strict=True):
            hook = _hook(embedding, mfam, self.strength)
            handles += [layer.to_k.register_forward_hook(hook), layer.to_v.register_forward_hook(hook)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _embedding() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )


def _hook(embedding: nn.Module, mfam: Tensor, strength: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def modulate(layer: Any, inputs: Any, output: Tensor) -> Tensor:
        grid = token_grid(output.shape[1], mfam.shape[-2], mfam.shape[-1])
        embedded = F.interpolate(embedding(mfam.to(output)[None, None]), grid, mode="bilinear")
        return output * (1 + strength * embedded.flatten()[None, :, None])

    return modulate


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of that many tokens over an image of that shape. Raises `ConfigRefused` when they
    form none."""
    rows = round((tokens * height / width) ** 0.5)
    if rows == 0 or rows * (tokens // rows) != tokens:
        raise ConfigRefused(f"{tokens} tokens form no grid over {height} × {width} pixels")
    return rows, tokens // rows


def refine(
    config: RefiningConfig, unet: Any, images: np.ndarray, work: Path, report: Report = silent
) -> Refined:
    """Train `unet`, a `UNet2DModel`, on images uint8 NHW3 of its size: base phase, then refinement.

    Called again with the same `work` it goes on where it was, with the losses of an undisturbed run. Raises
    `ConfigRefused` for images of another size and for a `work` of another run, `NonFinite` naming the step.
    """
    from diffusers import DDPMScheduler

    side = unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    if images.shape[1:] != (height, width, 3) or unet.config.in_channels != 3:
        raise ConfigRefused(
            f"images of shape {images.shape[1:]} were given; this UNet draws {(height, width, 3)}"
        )
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    modulation = KeyValueModulation(unet, config.reverse, config.seed)
    weights: dict[str, nn.Parameter] = {
        **{f"unet.{name}": each for name, each in unet.named_parameters()},
        **{f"kv.{name}": each for name, each in modulation.named_parameters()},
    }
    optimizer = torch.optim.AdamW(weights.values(), lr=config.lr)
    identity = json.dumps([config.model_dump(mode="json"), len(images)])
    state = keeping.restore(weights, optimizer, identity, work) or keeping.Progress(
        kept={name: weight.detach().clone() for name, weight in weights.items()}
    )
    base = config.steps - round(config.steps * config.refinement)
    unet.train()
    for step in range(state.done, config.steps):
        if step >= base and (step - base) % config.cycle == 0:
            highlighter = _highlighter(config, unet, weights, state.kept, scheduler, images, work, report)
            own = sampled(config, unet, weights, state.kept, scheduler, config.batch, step)
            state.kept[MFAM] = mean_map(highlighter.activation_maps(own))
        mfam = state.kept.get(MFAM) if step >= base else None
        loss = _update(config, unet, modulation, optimizer, scheduler, images, mfam, step)
        _average(config, weights, state.kept, step)
        state.done = step + 1
        state.history.append({"loss": loss, "refreshed": step >= base and (step - base) % config.cycle == 0})
        if state.done % config.checkpoint_every == 0 or state.done == config.steps:
            keeping.save(state, weights, optimizer, identity, work)
        report(state.done, config.steps, "refining" if step >= base else "training", loss=loss)
    return Refined(
        folder=_published(unet, weights, state.kept, scheduler, work),
        losses=[each["loss"] for each in state.history],
        maps=sum(each["refreshed"] for each in state.history),
    )


def _update(
    config: RefiningConfig,
    unet: Any,
    modulation: KeyValueModulation,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    images: np.ndarray,
    mfam: Tensor | None,
    step: int,
) -> float:
    """One update; its loss. Everything random in it follows from the seed and the step."""
    rng = torch.Generator().manual_seed(keeping.seed_of(config.seed, step))
    rows = torch.randint(len(images), (config.batch,), generator=rng)
    clean = as_tensor(images[rows.numpy()]) * 2 - 1
    noise = torch.randn(clean.shape, generator=rng)
    times = torch.randint(scheduler.config.num_train_timesteps, (config.batch,), generator=rng)
    added, target = noises(noise, mfam, config)
    with modulation.attached(mfam):
        answer = unet(scheduler.add_noise(clean, added, times), times).sample
    loss = F.mse_loss(answer, target)
    if not torch.isfinite(loss):
        raise NonFinite("the loss", step)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _average(config: RefiningConfig, weights: keeping.Weights, average: dict[str, Tensor], step: int) -> None:
    decay = average_decay(config.ema, step)
    for name, weight in weights.items():
        average[name].lerp_(weight.detach(), 1 - decay)


@contextmanager
def _averaged(weights: keeping.Weights, average: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the network has its averaged weights."""
    present = {name: weight.detach().clone() for name, weight in weights.items()}
    keeping.put(average, weights)
    try:
        yield
    finally:
        keeping.put(present, weights)


@torch.no_grad()
def sampled(
    config: RefiningConfig,
    unet: Any,
    weights: keeping.Weights,
    average: Mapping[str, Tensor],
    scheduler: Any,
    count: int,
    step: int,
) -> Tensor:
    """The averaged model's own images, float N3HW in [0, 1], by a few DDIM steps."""
    from diffusers import DDIMScheduler

    fast = DDIMScheduler.from_config(scheduler.config)
    fast.set_timesteps(config.sample_steps)
    rng = torch.Generator().manual_seed(keeping.seed_of(config.seed, step, 1))
    side = unet.config.sample_size
    shape = (3, side, side) if isinstance(side, int) else (3, *side)
    parts = []
    with _averaged(weights, average):
        for start in range(0, count, config.batch):
            latents = torch.randn((min(config.batch, count - start), *shape), generator=rng)
            for time in fast.timesteps:
                latents = fast.step(unet(latents, time).sample, time, latents).prev_sample
            parts.append((latents / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


def _highlighter(
    config: RefiningConfig,
    unet: Any,
    weights: keeping.Weights,
    average: Mapping[str, Tensor],
    scheduler: Any,
    images: np.ndarray,
    work: Path,
    report: Report,
) -> FlawHighlighter:
    """The flaw highlighter, trained once, when refinement begins, on real images and the model's own."""
    folder = work / HIGHLIGHTER
    if not folder.is_dir():
        count = min(config.highlighted, len(images))
        own = as_uint8(sampled(config, unet, weights, average, scheduler, count, config.steps))
        network, _ = train_highlighter(config.highlighter, images[:count], own, report)
        part = work / f".{HIGHLIGHTER}.part"
        network.save(part)
        part.rename(folder)
    return FlawHighlighter.load(folder)


def _published(
    unet: Any, weights: keeping.Weights, average: Mapping[str, Tensor], scheduler: Any, work: Path
) -> Path:
    """The averaged model as a stock pipeline."""
    from diffusers import DDPMPipeline

    with _averaged(weights, average):
        DDPMPipeline(unet=unet.eval(), scheduler=scheduler).save_pretrained(work / RESULT)
    return work / RESULT
