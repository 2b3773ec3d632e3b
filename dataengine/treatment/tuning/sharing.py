"""Sharing of LoRAs: ComfyUI's key layout, strength, fusing, blending."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dataengine import durable
from dataengine.bounds import check_header
from dataengine.errors import ConfigRefused, ModelRefused, reason_of
from dataengine.treatment.families.lora import NAME, merge_lora, scale_loras, weights_file

COMFYUI = "comfyui_lora.safetensors"
SECOND = "second"
"""Name of a LoRA beside the generator's own."""


ENCODERS = {"text_encoder": "te1_text_model", "text_encoder_2": "te2_text_model"}
"""Names of text encoders in ComfyUI. transformers 5 left out the `text_model` of their layers' names."""


def to_comfyui(source: Path, target: Path) -> None:
    """The same LoRA under ComfyUI's names, with `.alpha` for every pair, because ComfyUI does not read
    diffusers' metadata: `transformer.PATH.lora_down|lora_up.weight`, which it maps for every transformer that
    it has a map of, and `lora_unet_PATH_WITH_UNDERSCORES` for UNets and text encoders.

    Raises `ModelRefused` for a file that is no LoRA in diffusers' keys.
    """
    layers, metadata = _read(source)
    adapter = json.loads(metadata) if metadata else {}
    tensors = {}
    for layer, (down, up) in layers.items():
        component, _, path = layer.partition(".")
        plain = path.removeprefix("text_model.") if component in ENCODERS else path
        name = f"lora_{ENCODERS.get(component, component)}_{plain.replace('.', '_')}"
        if component == "transformer":
            name = layer
        tensors[f"{name}.lora_down.weight"] = down.contiguous()
        tensors[f"{name}.lora_up.weight"] = up.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(_alpha(adapter, component, path, len(down)))
    temporary = target.with_name(f".{target.name}.part")
    save_file(tensors, temporary, metadata={"format": "pt", **({"made_of": metadata} if metadata else {})})
    durable.move(temporary, target)


def _alpha(adapter: Mapping[str, Any], component: str, path: str, rank: int) -> float:
    """The alpha of a layer by the metadata of diffusers; its rank without, as diffusers assumes."""
    from peft.utils.other import get_pattern_key

    patterns = adapter.get(f"{component}.alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), path), adapter.get(f"{component}.lora_alpha", rank))
    return float(alpha) * (rank**0.5 if adapter.get(f"{component}.use_rslora") else 1.0)


def _read(source: Path) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], str]:
    """(A, B) by layer, and the metadata of diffusers."""
    try:
        check_header(source)
        with safe_open(source, framework="pt") as file:
            metadata = (file.metadata() or {}).get("lora_adapter_metadata", "")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelRefused(f"{source} is not a safetensors file, or it is damaged; save it again") from error
    first = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}
    second = {key.removesuffix(".lora_B.weight") for key in tensors if key.endswith(".lora_B.weight")}
    if not first or first != second or len(tensors) != 2 * len(first):
        raise ModelRefused(f"{source} holds no pairs of lora_A and lora_B; expected a LoRA of diffusers")
    pairs = {
        layer: (tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"])
        for layer in sorted(first)
    }
    return pairs, metadata


def set_strength(family: Any, strength: float) -> None:
    """Scale the generator's attached LoRA by `strength`: 0 is the base, 1 is as trained.

    Raises `ConfigRefused` without one.
    """
    _require(family)
    trainable = [weight for weight in family.adapter.parameters().values() if weight.requires_grad]
    scale_loras(family.modules().values(), {NAME: strength})
    for weight in trainable:
        weight.requires_grad_(True)


def add_second(family: Any, source: Path, strength: float = 1.0) -> None:
    """Attach a saved LoRA beside the generator's own, or to a generator without one; for generation only.

    Raises `ModelRefused` for files that are no LoRA of diffusers, or of another base.
    """
    file = weights_file(source)
    _read(file)
    try:
        family.pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=SECOND, use_safetensors=True
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelRefused(f"{file} does not fit this generator: {reason_of(error)}") from error
    own = {NAME: 1.0} if family.adapter.parameters() else {}
    names = {**own, SECOND: strength}
    family.pipeline.set_adapters(list(names), list(names.values()))
    for network in family.modules().values():
        network.requires_grad_(False)


def blend(family: Any, loras: Mapping[str, tuple[Path, float]]) -> None:
    """Attach several saved LoRAs, each with a name and a strength, to a generator without one.

    For generation only: a blend cannot be trained. Raises `ConfigRefused` for no LoRAs, or if one is
    attached, and `ModelRefused` for files that are no LoRA of diffusers.
    """
    if not loras:
        raise ConfigRefused("there is no LoRA to blend; pass at least one")
    if family.adapter.parameters():
        raise ConfigRefused("this generator already has a LoRA attached; open it again to blend several")
    for name, (folder, _) in loras.items():
        file = weights_file(folder)
        _read(file)
        family.adapter.attach(file, name)
    scale_loras(family.modules().values(), {name: strength for name, (_, strength) in loras.items()})


def fuse(family: Any, strength: float = 1.0) -> None:
    """Merge the attached LoRA into the base's weights; the generator then needs no LoRA file.

    Raises `ConfigRefused` without one.
    """
    _require(family)
    set_strength(family, strength)
    merge_lora(family.modules().values())


def _require(family: Any) -> None:
    if not family.adapter.parameters():
        raise ConfigRefused("this generator has no LoRA attached; load one first")
