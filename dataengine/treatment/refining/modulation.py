"""Keys and values of self-attention weighed by the mean flaw map (self-refining diffusion, reverse part)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine.errors import ConfigRefused


class KeyValueModulation(nn.Module):
    """K and V of every self-attention, times 1 + λ·M_emb; each layer embeds mFAM by convolutions of its own.

    It holds for UNets and transformers alike: diffusers' attention processors all go through `to_k` and
    `to_v`, so hooks there reach every processor. They hang only inside `attached`, and nothing of this is
    part of the network, so that a saved network is as if it had never been.
    """

    def __init__(self, network: nn.Module, strength: float, seed: int) -> None:
        """Finds diffusers' self-attentions in `network`.

        Raises `ConfigRefused` when there is none, or when keys and values are computed fused.
        """
        super().__init__()
        self.strength = strength
        self._layers = self_attentions(network) if strength else []
        if strength and not self._layers:
            raise ConfigRefused(
                f"{type(network).__name__} has no self-attention whose keys and values could be weighed; "
                "set reverse=0"
            )
        if any(getattr(layer, "fused_projections", False) for layer in self._layers):
            raise ConfigRefused(
                f"{type(network).__name__} computes keys and values fused: call its unfuse_qkv_projections()"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = nn.ModuleList(_embedding() for _ in self._layers)

    @contextmanager
    def attached(self, mfam: Tensor | None) -> Iterator[None]:
        """Within it, backward included, the layers are modulated by mFAM, float HW; not at all by None."""
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
    """The attention layers of diffusers in which an image looks at itself."""
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
    """Rows and columns of that many tokens over an image of that shape. Raises `ConfigRefused` when they
    form none."""
    rows = round((tokens * height / width) ** 0.5)
    if rows == 0 or rows * (tokens // rows) != tokens:
        raise ConfigRefused(f"{tokens} tokens form no grid over {height} × {width} pixels")
    return rows, tokens // rows
