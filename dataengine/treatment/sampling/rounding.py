"""Weights as drawing programs store them: a LoRA merged into its base, and weights in 8-bit floats."""

from typing import Any

import torch
from torch import nn

from dataengine.errors import ConfigRefused

LORA = "lora_"
"""Part of the name of a LoRA's own weights, which stay as they are."""


def merge_lora(family: Any) -> None:
    """Add the attached LoRA to the base's weights, W + αBA / r, in the precision that these have.

    The family can then no longer generate without it. Raises `ConfigRefused` without a LoRA.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [
        layer
        for network in family.modules().values()
        for layer in network.modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    if not layers:
        raise ConfigRefused("this generator has no LoRA to merge")
    for layer in layers:
        layer.merge()


@torch.no_grad()
def round_to_float8(network: nn.Module) -> None:
    """Round all matrices and kernels to `float8_e4m3fn` in place, but a LoRA's own, and keep their type.

    So images come out as from a base that is stored in 8-bit floats and computes in its former type, which
    is how ComfyUI and diffusers' layerwise casting do it. Values beyond ±448 become the largest.
    """
    largest = torch.finfo(torch.float8_e4m3fn).max
    for name, weight in network.named_parameters():
        if weight.ndim >= 2 and weight.is_floating_point() and LORA not in name:
            rounded = weight.data.clamp(-largest, largest).to(torch.float8_e4m3fn)
            weight.data = rounded.to(weight.dtype)


def denoiser_of(family: Any) -> nn.Module:
    """The network that predicts noise or velocity."""
    pipeline = family.pipeline
    found = getattr(pipeline, "transformer", None)
    network: nn.Module = found if found is not None else pipeline.unet
    return network
