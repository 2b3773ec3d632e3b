"""Opening of generators from a folder or a hub id; anything that could run code is refused.

A pipeline is loaded only if its `model_index.json` names known classes, no file in it is Python or pickled,
and every network is stored completely as safetensors.
"""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused, reason_of
from dataengine.model_files import PICKLED, check_settings, files_of, refuse_code
from dataengine.safetensors_header import refuse_pointer
from dataengine.treatment.families.catalog import PIPELINES, FamilyFacts
from dataengine.treatment.families.components import IMPLEMENTATION, stock_facts
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.quantization import Bits
from dataengine.treatment.families.schedulers import check_scheduler
from dataengine.treatment.families.selfcheck import check_once
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.families.weight_files import check_weights, own_variant, variant_of

INDEX = "model_index.json"
TEXT = ("*.json", "*.txt", "*.model", "*.jinja")
"""Templates of chats among them are rendered by transformers alone, in its sandbox."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
"""Of which a tokenizer needs one; without any, transformers makes an empty one."""


def load_family(
    location: str | Path,
    lora: Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
    by_its_call: bool = False,
) -> GeneratorFamily:
    """Open the generator in a folder or at a hub id ("owner/name" or "owner/name@revision"), frozen, on
    `device`.

    `dtype` is that of all networks but the VAE, which stays in float32; `bits`, 4 or 8, quantises the
    denoiser's weights, which compute in `dtype`. `lora` is a folder written by a treatment. `by_its_call`
    opens as a `StockFamily` what has a family of its own. Raises `ModelRefused`, naming the file, for
    anything that is not allowed.
    """
    folder = Path(location) if Path(location).is_dir() else download_pipeline(str(location))
    kind = check_pipeline(folder, by_its_call)
    try:
        family: Any = facts_of(folder, by_its_call).load().open(folder, dtype, bits)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise ModelRefused(f"{folder} does not load as a {kind}: {reason_of(error)}") from error
    family.pipeline.set_progress_bar_config(disable=True)
    for name, network in family.modules().items():
        if lacking := [key for key, weight in network.named_parameters() if weight.is_meta]:
            raise ModelRefused(f"{folder / name} lacks {lacking[0]}; download its weights again")
        network.requires_grad_(False).eval()
    family.to(device)
    if isinstance(family, StockFamily):
        check_once(family, folder)
    if lora is not None:
        family.adapter.load(Path(lora))
        family.to(device)
    opened: GeneratorFamily = family
    return opened


def facts_of(folder: Path, by_its_call: bool = False) -> FamilyFacts:
    """The family of a folder and its parts: one of our own for the class, else `StockFamily`.

    Ours answer noise; of their classes, models of v-prediction are opened by their own call. Raises
    `ModelRefused` for classes of another kind.
    """
    file = folder / INDEX
    kind, index = read_index(file)
    ours = PIPELINES.get(kind)
    if ours and not by_its_call and not (ours.takes_lora and predicts_velocity(folder)):
        return ours
    try:
        return stock_facts(kind, index, file)
    except ModelRefused as error:
        raise ModelRefused(f"{file} names the pipeline class {kind!r}: {error}") from error


def predicts_velocity(folder: Path) -> bool:
    """Whether the scheduler's settings in a pipeline folder are those of v-prediction."""
    try:
        config = read_config(folder / "scheduler" / "scheduler_config.json")
        return dict(config).get("prediction_type") == "v_prediction"
    except (OSError, ValueError, TypeError):
        return False


def check_pipeline(folder: Path, by_its_call: bool = False) -> str:
    """The pipeline class of a folder. Raises `ModelRefused`, naming the file, if it must not be loaded, or
    cannot be since weights are missing."""
    kind, index = read_index(folder / INDEX)
    facts = facts_of(folder, by_its_call)
    for name, allowed in facts.components.items():
        component = index.get(name)
        if not isinstance(component, list) or not any(_matches(component, pair) for pair in allowed):
            raise ModelRefused(
                f"{folder / INDEX} names {component} as {name}; "
                f"expected {' or '.join(sorted(kind for _, kind in allowed)).replace('*', 'any ')}"
            )
    files = list(files_of(folder))
    parts = [path for path in files if path.relative_to(folder).parts[0] in facts.components]
    refuse_code([path for path in files if path.parent == folder], pickled=set())
    refuse_code(parts, pickled=PICKLED)
    for path in parts:
        refuse_pointer(path)
        if path.suffix.lower() == ".json":
            check_settings(path)
    if facts.implementation != IMPLEMENTATION:
        check_scheduler(folder / "scheduler", index["scheduler"][1], facts.load().prediction)
    libraries = {name: str(index[name][0]) for name in facts.networks}
    variant = variant_of(folder, libraries)
    for name, library in libraries.items():
        check_weights(folder / name, library, own_variant(folder / name, library, variant))
    for name in facts.components:
        if name.startswith("tokenizer") and not any(
            (folder / name / file).is_file() for file in VOCABULARIES
        ):
            raise ModelRefused(f"{folder / name} holds none of {', '.join(VOCABULARIES)}; download it again")
    return kind


def _matches(component: list[Any], pattern: tuple[str, str]) -> bool:
    """Whether a component of an index, [library, class], is of that pair; "*" stands for any letters."""
    return (
        len(component) == 2
        and all(isinstance(part, str) for part in component)
        and all(map(fnmatch, component, pattern))
    )


def read_index(file: Path) -> tuple[str, dict[str, Any]]:
    """Class name and content of a `model_index.json`. Raises `ModelRefused` for other files."""
    try:
        index = read_config(file)
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(
            f"{file} is missing or no pipeline index; expected a diffusers pipeline folder"
        ) from error
    if not isinstance(kind, str):
        raise ModelRefused(
            f"{file} names the pipeline class {kind!r}, which is no class of diffusers; only its own "
            "are loaded"
        )
    return kind, index


def download_pipeline(location: str) -> Path:
    """The local snapshot of a hub repository: first the index, then only the parts and file types that are
    loaded."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = location.partition("@")
    try:
        index = hf_hub_download(repository, INDEX, revision=revision or None)
        facts = facts_of(Path(index).parent)
        patterns = [f"{name}/{text}" for name in facts.components for text in TEXT]
        patterns += [f"{name}/*.safetensors" for name in facts.networks]
        folder = snapshot_download(
            repository,
            allow_patterns=[INDEX, *patterns],
            ignore_patterns=["*.fp16.*", "*non_ema*"],
            revision=revision or None,
        )
        if halved := [name for name in facts.networks if not any(Path(folder, name).glob("*.safetensors"))]:
            # Published in half precision only.
            patterns = [f"{name}/*.fp16.{end}" for name in halved for end in ("safetensors", "json")]
            snapshot_download(
                repository, allow_patterns=patterns, ignore_patterns=["*non_ema*"], revision=revision or None
            )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefused(
            f"{location} is neither a local folder nor a repository that can be fetched: {reason_of(error)}"
        ) from error
    return Path(folder)
