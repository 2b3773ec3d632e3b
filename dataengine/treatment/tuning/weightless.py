"""Generators without weights, for estimates: of a pipeline folder, of configs alone, or like a loaded one.

All must be made within `estimate.fake_tensors()`.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused
from dataengine.treatment.families.catalog import FAMILIES, PIPELINES, FamilyFacts
from dataengine.treatment.families.components import IMPLEMENTATION, stock_class, stock_facts
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.own_call.tokens import LengthTokenizer
from dataengine.treatment.families.shapes import ShapesFamily, pipeline_of
from dataengine.treatment.families.stock import StockFamily

TOKENS = 512
"""Longest prompt of text encoders without a limit of their own."""
SETTINGS = {"scheduler": "scheduler_config.json"}
"""The settings of a part, where these are not in its `config.json`."""


def family_without_weights(
    location: Path | GeneratorFamily, dtype: torch.dtype = torch.float32, prompt: str = ""
) -> GeneratorFamily:
    """A generator without weights, from a pipeline folder or like a loaded one; where the length of a prompt
    counts, it is that of `prompt`.

    Raises `ModelRefused` for a folder that would not be loaded.
    """
    if isinstance(location, Path):
        facts, parts = _folder_parts(location, dtype)
    else:
        facts, parts = _live_parts(location)
    return _family(facts, parts, prompt)


def family_of_configs(kind: str, folder: Path, dtype: torch.dtype) -> GeneratorFamily:
    """A generator of that class from the settings in `folder` alone: `config.json` of each network and
    `scheduler_config.json`, each in a folder of its part, and `model_index.json` where there is one.

    Every prompt has the most tokens that the pipeline reads. Raises `ModelRefused` for parts that are missing
    or of another class.
    """
    from dataengine.treatment.families.loading import predicts_velocity

    index = read_config(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    if index.get("_class_name", kind) != kind:
        raise ModelRefused(f"{folder} holds the settings of a {index['_class_name']}, and not of a {kind}")
    ours = PIPELINES.get(kind)
    if ours is not None and ours.takes_lora and predicts_velocity(folder):
        ours = None
    if ours is not None:
        facts, named = ours, tuple(ours.components)
    else:
        named = tuple(stock_class(kind)._get_signature_types())
    for name in named:
        if name not in index and (found := _class_named(folder / name)):
            index[name] = found
    if ours is None:
        facts = stock_facts(kind, _with_tokenizers(kind, index), folder)
    parts: dict[str, Any] = {name: value for name, value in index.items() if not _is_part(name, value)}
    for name in facts.components:
        if name.startswith(("tokenizer", "processor")):
            continue
        if name not in index:
            raise ModelRefused(f"{folder / name} has no settings; a {kind} is estimated with its {name}")
        parts[name] = _part_of(folder, name, index[name], facts, dtype)
    for name in facts.components:
        if name.startswith(("tokenizer", "processor")):
            read_by = parts.get(name.replace("tokenizer", "text_encoder"))
            longest = getattr(getattr(read_by, "config", None), "max_position_embeddings", None)
            parts[name] = LengthTokenizer(min(longest or TOKENS, TOKENS))
    return _family(facts, parts)


def _family(facts: FamilyFacts, parts: dict[str, Any], prompt: str = "") -> GeneratorFamily:
    if facts.implementation == IMPLEMENTATION:
        return ShapesFamily(pipeline_of(facts.pipelines[0], parts), prompt)
    with unset_fake_temporarily():
        family: GeneratorFamily = facts.load()(SimpleNamespace(**parts))
    return family


def _class_named(folder: Path) -> list[str] | None:
    """[library, class] that the settings of a part name."""
    file = folder / SETTINGS.get(folder.name, "config.json")
    if not file.is_file():
        return None
    config = read_config(file)
    if "_class_name" in config:
        return ["diffusers", config["_class_name"]]
    return ["transformers", (config.get("architectures") or [""])[0]]


def _with_tokenizers(kind: str, index: dict[str, Any]) -> dict[str, Any]:
    """With a class of transformers for each tokenizer that is not named, none of which is opened."""
    types = stock_class(kind)._get_signature_types()
    lacking = [name for name in types if name.startswith(("tokenizer", "processor")) and name not in index]
    return {**{name: ["transformers", "PreTrainedTokenizerFast"] for name in lacking}, **index}


def _folder_parts(folder: Path, dtype: torch.dtype) -> tuple[FamilyFacts, dict[str, Any]]:
    from dataengine.treatment.families.loading import INDEX, check_pipeline, facts_of, read_index

    check_pipeline(folder)
    facts, (_, index) = facts_of(folder), read_index(folder / INDEX)
    # Settings of the pipeline itself stand beside its parts.
    parts: dict[str, Any] = {name: value for name, value in index.items() if not _is_part(name, value)}
    for name in facts.components:
        parts[name] = _part_of(folder, name, index[name], facts, dtype)
    return facts, parts


def _part_of(folder: Path, name: str, named: Any, facts: FamilyFacts, dtype: torch.dtype) -> Any:
    """A part from its settings: a network without weights, or a scheduler or tokenizer as it is."""
    import diffusers
    import transformers

    library, class_name = named
    kind = getattr(diffusers if library == "diffusers" else transformers, class_name)
    if name not in facts.networks:
        with unset_fake_temporarily():
            return kind.from_pretrained(folder / name)
    config = (
        kind.load_config(folder / name)
        if library == "diffusers"
        else kind.config_class.from_pretrained(folder / name)
    )
    return network_without_weights(kind, config, torch.float32 if name == "vae" else dtype)


def _live_parts(family: Any) -> tuple[FamilyFacts, dict[str, Any]]:
    if isinstance(family, StockFamily):
        return _live_stock_parts(family)
    facts = FAMILIES[family.name]
    parts = {name: getattr(family.pipeline, name) for name in facts.components}
    for name, network in family.modules().items():
        parts[name] = network_without_weights(type(network), network.config, network.dtype)
    return facts, parts


def _live_stock_parts(family: StockFamily) -> tuple[FamilyFacts, dict[str, Any]]:
    config, components = family.pipeline.config, family.pipeline.components
    index = {name: list(config[name]) for name in components if config.get(name)}
    parts = {name: value for name, value in config.items() if not _is_part(name, value)} | components
    networks: dict[str, Any] = dict(family.modules())
    for name, network in networks.items():
        parts[name] = network_without_weights(type(network), network.config, network.dtype)
    return stock_facts(family.kind, index, family.kind), parts


def _is_part(name: str, value: Any) -> bool:
    """Whether an entry of a pipeline's index is a component, [library, class], and no setting."""
    named = isinstance(value, (list, tuple)) and len(value) == 2
    return name.startswith("_") or (named and all(isinstance(each, str | None) for each in value))


def network_without_weights(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    """A diffusers or transformers network of that class and config, without weights, frozen."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network: nn.Module = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    finally:
        torch.set_default_dtype(before)
    return network.eval().requires_grad_(False)
