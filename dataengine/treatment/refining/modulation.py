"""Modulation of self-attention keys and values by the mean flaw map (self-refining diffusion, reverse
part)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine.errors import ConfigRefused


class KeyValueModulation(nn.Module):
    """Scales K and V of every self-attention by 1 + λ·M_emb; each layer embeds mFAM by its own convolutions.

    Works for UNets and transformers: all of diffusers' attention processors call `to_k` and `to_v`, so hooks
    there reach every processor. The hooks exist only inside `attached`, and none of it is part of the
    network, so a saved network contains nothing of it.
    """

    def __init__(self, network: nn.Module, strength: float, seed: int) -> None:
        """Find diffusers' self-attentions in `network`.

        Raises `ConfigRefused` when there is none, or when keys and values are computed fused.
        """
        super().__init__()
        self.strength = strength
        self._layers = self_attentions(network) if strength else []
        if strength and not self._layers:
            raise ConfigRefused(
                f"{type(network).__name__} has no self-attention with keys and values to modulate; "
                "set reverse=0"
            )
        if any(getattr(layer, "fused_projections", False) for layer in self._layers):
            raise ConfigRefused(
                f"{type(network).__name__} fuses keys and values: call unfuse_qkv_projections() first"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = nn.ModuleList(_embedding() for _ in self._layers)

    @contextmanager
    def attached(self, mfam: Tensor | None) -> Iterator[None]:
        """Context in which the layers are modulated by mFAM, float HW, backward included; None: no
        modulation."""
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


def self_attentions(network: nn.Module) -> list[Any]:
    """The self-attention layers of diffusers."""
    from diffusers.models.attention_processor import Attention

    return [
        layer for layer in network.modules() if isinstance(layer, Attention) and not layer.is_cross_attention
    ]


def _embedding() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )


def _hook(embedding: nn.Module, mfam: Tensor, strength: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def modulate(layer: Any, inputs: Any, output: Tensor) -> Tensor:
        grid = token_grid(output.shape[1], mfam.shape[-2], mfam.shape[-1])
        embedded = F.interpolate(embedding(mfam[None, None]).float(), grid, mode="bilinear")
        return output * (1 + strength * embedded.flatten()[None, :, None]).to(output)

    return modulate


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the token grid of an image of that shape. Raises `ConfigRefused` when there is
    none."""
    rows = round((tokens * height / width) ** 0.5)
    if rows == 0 or rows * (tokens // rows) != tokens:
        raise ConfigRefused(f"{tokens} tokens form no grid over {height} × {width} pixels")
    return rows, tokens // rows
