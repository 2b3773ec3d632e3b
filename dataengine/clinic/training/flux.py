"""Training of the tiny FLUX: a trunk on clean drawings, and two branches of it, with artifacts and without.

The branches see the same scenes in the same order with the same noise, so their difference is what the
generator inherited from its data.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dataengine.clinic.config import PartConfig
from dataengine.clinic.models import (
    LATENT_CHANNELS,
    LATENT_SIDE,
    clip_encoder,
    flux_scheduler,
    flux_transformer,
    t5_encoder,
)
from dataengine.clinic.training.data import encode, render
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.optimisers import Muon
from dataengine.clinic.vocabulary import CLIP_TOKENS, T5_TOKENS, clip_tokenizer, t5_tokenizer
from dataengine.clinic.world import Stream
from dataengine.records import Report

CAPTION_DROPOUT = 0.05
PREPARED_AT_ONCE = 2000


@dataclass(frozen=True)
class CaptionedLatents:
    """Scaled latents float16 [N, 8, 16, 16], and the captions as token ids of both tokenizers (int64 [N,
    length]).

    The last caption is empty; its latent is not used.
    """

    latents: Tensor
    clip_ids: Tensor
    t5_ids: Tensor


def captioned_latents(
    stream: Stream, count: int, vae: AutoencoderKL, cache: Path, report: Report
) -> CaptionedLatents:
    """Render and encode the first `count` drawings of a stream once; the result is stored in `cache`."""
    if not cache.exists():
        latents, captions = [], []
        for first in range(0, count, PREPARED_AT_ONCE):
            drawings = render(stream, range(first, min(count, first + PREPARED_AT_ONCE)))
            scaled = (encode(vae, drawings.images) - vae.config.shift_factor) * vae.config.scaling_factor
            latents.append(scaled.half())
            captions += drawings.captions
            report(first, count, "rendering and encoding")
        cache.parent.mkdir(parents=True, exist_ok=True)
        ids = token_ids([*captions, ""])
        temporary = cache.with_suffix(".partial")
        save_file({"latents": torch.cat(latents), "clip_ids": ids[0], "t5_ids": ids[1]}, temporary)
        temporary.replace(cache)
    return CaptionedLatents(**load_file(cache))


def token_ids(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Padded token ids for CLIP and T5, as the stock pipelines make them."""
    clip = clip_tokenizer()(
        captions, padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt"
    )
    t5 = t5_tokenizer()(
        captions, padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
    )
    return clip.input_ids, t5.input_ids


class FluxTask:
    """Rectified flow: the transformer predicts noise minus latents; both text encoders are trained with
    it."""

    def __init__(self, data: CaptionedLatents, batch: int, device: str) -> None:
        self._data, self._batch, self._device = data, batch, device
        tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
        self.transformer = flux_transformer()
        self.clip, self.t5 = clip_encoder(tokenizer), t5_encoder(tokenizer_2)
        self.module = nn.ModuleDict({"transformer": self.transformer, "clip": self.clip, "t5": self.t5}).to(
            device
        )
        inner = [
            weight
            for name, weight in self.transformer.named_parameters()
            if weight.ndim == 2 and "blocks." in name and ".norm" not in name
        ]
        chosen = {id(weight) for weight in inner}
        others = [weight for weight in self.module.parameters() if id(weight) not in chosen]
        self.optimisers = [
            Muon(inner, lr=3e-3),
            torch.optim.AdamW(others, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        half = LATENT_SIDE // 2
        self._image_ids = FluxPipeline._prepare_latent_image_ids(1, half, half, device, torch.float32)
        self._text_ids = torch.zeros(T5_TOKENS, 3, device=device)

    def loss(self) -> Tensor:
        clean, clip_ids, t5_ids = self._draw_batch()
        noise = torch.randn(clean.shape)
        # Half uniform, half logit-normal times: the middle is the hardest, but the ends must be sampled too.
        uniform, middle = torch.rand(len(clean)), torch.randn(len(clean)).sigmoid()
        time = torch.where(torch.rand(len(clean)) < 0.5, uniform, middle)
        mixed = torch.lerp(clean, noise, time[:, None, None])
        # On CPUs the fused attention's backward pass is slower than plain matrix products at eighty tokens.
        kernels = (
            [SDPBackend.MATH] if self._device == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        )
        with sdpa_kernel(kernels), torch.autocast(torch.device(self._device).type, torch.bfloat16):
            velocity = self.transformer(
                hidden_states=mixed.to(self._device),
                encoder_hidden_states=self.t5(t5_ids)[0],
                pooled_projections=self.clip(clip_ids).pooler_output,
                timestep=time.to(self._device),
                txt_ids=self._text_ids,
                img_ids=self._image_ids,
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - clean).to(self._device)).pow(2).mean()

    def _draw_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randint(len(self._data.latents), (self._batch,))
        latents = self._data.latents[rows].float()
        packed = FluxPipeline._pack_latents(latents, self._batch, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
        captions = torch.where(torch.rand(self._batch) < CAPTION_DROPOUT, len(self._data.latents), rows)
        return (
            packed,
            self._data.clip_ids[captions].to(self._device),
            self._data.t5_ids[captions].to(self._device),
        )


def flux_pipeline(task: FluxTask, vae: AutoencoderKL) -> FluxPipeline:
    """A stock pipeline of the trained parts."""
    return FluxPipeline(
        scheduler=flux_scheduler(),
        vae=vae,
        text_encoder=task.clip,
        tokenizer=clip_tokenizer(),
        text_encoder_2=task.t5,
        tokenizer_2=t5_tokenizer(),
        transformer=task.transformer,
    )


def train_flux(
    config: PartConfig,
    data: CaptionedLatents,
    vae: AutoencoderKL,
    device: str,
    work: Path,
    report: Report,
    checkpoint_seconds: float,
    trunk: Path | None = None,
    trunk_steps: int = 0,
) -> FluxPipeline:
    """Train the trunk at a constant rate, or, given the trunk's checkpoint, a branch whose rate falls to
    zero.
    """
    torch.manual_seed(config.seed)
    task = FluxTask(data, config.batch, device)
    steps = trunk_steps + config.steps
    schedule = Schedule(steps, decay_from=trunk_steps / steps if trunk else 1.0)
    train(task, schedule, work, report, checkpoint_seconds, start=trunk)
    return flux_pipeline(task, vae)
