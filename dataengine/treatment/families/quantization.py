"""An 8- or 4-bit base under a LoRA (QLoRA, Dettmers et al. 2023), through bitsandbytes."""

from importlib.util import find_spec
from typing import Any, Literal

import torch

from dataengine.errors import ConfigRefused

Bits = Literal[4, 8]


def loading_options(denoiser: str, bits: Bits | None, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of a pipeline's `from_pretrained` that quantise its `denoiser` to `bits`; empty for None.

    Raises `ConfigRefused` when bitsandbytes is absent.
    """
    if bits is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise ConfigRefused(
            f"a {bits}-bit base needs bitsandbytes; install it with pip install 'artifact-clinic[quantized]'"
        )
    from diffusers import PipelineQuantizationConfig

    options: dict[str, Any] = {"load_in_8bit": True}
    if bits == 4:
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    return {
        "quantization_config": PipelineQuantizationConfig(
            quant_backend=f"bitsandbytes_{bits}bit",
            quant_kwargs=options,
            components_to_quantize=[denoiser],
        )
    }
