"""A LoRA in a network by peft itself: some networks of diffusers have no loader of their own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dataengine.errors import ModelRefused

METADATA = "lora_adapter_metadata"
"""Key of a file's header under which diffusers keeps the settings of its LoRA."""


def attach(network: Any, config: Any, name: str) -> None:
    """Attach a new LoRA of peft's `config`."""
    if hasattr(network, "add_adapter"):
        network.add_adapter(config, adapter_name=name)
        return
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, network, name)


def switch(network: Any, on: bool) -> None:
    """Let the network answer with its LoRA, or without."""
    if hasattr(network, "enable_adapters"):
        network.enable_adapters() if on else network.disable_adapters()
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(on)


def save(network: nn.Module, name: str, prefix: str, file: Path) -> None:
    """Write the LoRA under keys that begin with `prefix`, its settings in the header, as diffusers does."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    settings = network.peft_config[name].to_dict()  # type: ignore[operator,union-attr,index]
    stated = {f"{prefix}.{key}": sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
    matrices = get_peft_model_state_dict(network, adapter_name=name)
    save_file(
        {f"{prefix}.{key}": value.contiguous() for key, value in matrices.items()},
        file,
        {"format": "pt", METADATA: json.dumps(stated, sort_keys=True)},
    )


def load(
    network: nn.Module, name: str, prefix: str, matrices: Mapping[str, Tensor], stated: str | None
) -> None:
    """Attach the matrices of a file, whose keys begin with `prefix`; `stated` are the settings in its header.

    Without them alpha is the rank. Raises `ModelRefused` for matrices that the network has no layer for.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    held = {key.removeprefix(f"{prefix}."): value for key, value in matrices.items()}
    if stated is None:
        ranks = {key.removesuffix(".lora_A.weight"): len(v) for key, v in held.items() if ".lora_A." in key}
        patterns = {"rank_pattern": ranks, "alpha_pattern": ranks}
        config = LoraConfig(target_modules=sorted(ranks), **patterns)
    else:
        settings = json.loads(stated)
        known = LoraConfig().to_dict()
        given = {key.removeprefix(f"{prefix}."): value for key, value in settings.items()}
        config = LoraConfig(**{key: value for key, value in given.items() if key in known})
    attach(network, config, name)
    result = set_peft_model_state_dict(network, held, adapter_name=name)
    if result.unexpected_keys:
        raise ModelRefused(f"the network has no layer for {result.unexpected_keys[0]}")
