"""Check that a generator can be opened and drawn with, without reading its weights.

Its networks are opened on the meta device, where tensors have shapes and no data, by the same functions of
diffusers and transformers as for real; then one denoising step is played.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataengine.errors import ModelRefused, reason_of
from dataengine.treatment.families.catalog import FamilyFacts
from dataengine.treatment.families.components import IMPLEMENTATION
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import INDEX, check_pipeline, facts_of, read_index
from dataengine.treatment.families.own_call.quiet import quiet
from dataengine.treatment.families.weight_files import own_variant, variant_of

STRICT = "diffusers"
"""The library whose networks must use every tensor of their files. Text encoders often travel with parts that
are not needed."""


def inspect_pipeline(folder: Path, lora: Path | None = None) -> str:
    """The pipeline class of a folder whose generator opens, with its LoRA, and takes a denoising step.

    Raises `ModelRefused`, naming the file or the network, for one that does not.
    """
    kind = check_pipeline(folder)
    with quiet():
        facts = facts_of(folder)
        family = _open_on_meta(folder, facts)
        if lora is not None:
            family.adapter.load(lora)
            for network in family.modules().values():
                network.to("meta")
        if facts.implementation != IMPLEMENTATION:
            _play(folder, family)
    return kind


def _open_on_meta(folder: Path, facts: FamilyFacts) -> GeneratorFamily:
    import diffusers

    _, index = read_index(folder / INDEX)
    variant = variant_of(folder, {name: str(index[name][0]) for name in facts.networks})
    parts: dict[str, Any] = {
        name: _network_on_meta(folder / name, index[name][0], index[name][1], variant)
        for name in facts.networks
    }
    stock = getattr(diffusers, facts.pipelines[0])
    parts |= {name: None for name in stock._optional_components if name not in facts.components}
    try:
        pipeline = stock.from_pretrained(folder, local_files_only=True, **parts)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise ModelRefused(f"{folder} does not load as a {facts.pipelines[0]}: {reason_of(error)}") from error
    family: GeneratorFamily = facts.load()(pipeline)
    return family


def _network_on_meta(folder: Path, library: str, kind: str, variant: str | None) -> nn.Module:
    """A network without data, all of whose tensors have been found in its files with the right shapes."""
    import diffusers
    import transformers

    network_class = getattr(diffusers if library == "diffusers" else transformers, kind)
    try:
        network, info = network_class.from_pretrained(
            folder,
            variant=own_variant(folder, library, variant),
            device_map="meta",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ModelRefused(f"{folder} does not load as a {kind}: {reason_of(error)}") from error
    for why in ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if library == STRICT else [])):
        if keys := sorted(map(str, info[why])):
            raise ModelRefused(
                f"{folder} does not fit its config.json: {len(keys)} {why.removesuffix('_keys')} tensors, "
                f"such as {keys[0]}; download its weights and its config.json together"
            )
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _play(folder: Path, family: Any) -> None:
    """One step on shapes alone: networks of different models fail here, as they would when drawing."""
    try:
        conditioning = family.encode_prompts([""])
        latents = family.initial_latents([0], family.size)
        output = family.predict(latents, torch.zeros(1, device="meta"), conditioning, family.guidance)
        if output.shape != latents.shape:
            raise ValueError(f"it answers {tuple(output.shape)} to latents of {tuple(latents.shape)}")
        family.decode(latents)
    except Exception as error:
        raise ModelRefused(f"the networks of {folder} do not work together: {reason_of(error)}") from error
