"""A generator in a single file becomes a pipeline folder, by diffusers' own single-file loaders.

A `.safetensors` file holds the denoiser, and often VAE and text encoders; a `.gguf` file a denoiser of few
bits. Configs, tokenizers and what the file lacks come from a pipeline folder of the same class: a given one,
one beside the file, or the one in the hub's cache that diffusers names for such a file. The folder that is
written is loaded, shared and treated like any other.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dataengine.errors import ConfigRefused, ModelRefused, reason_of
from dataengine.model_files import PICKLED, refuse_code
from dataengine.safetensors_header import refuse_pointer, tensor_shapes
from dataengine.treatment.families.catalog import FamilyFacts
from dataengine.treatment.families.loading import INDEX, TEXT, facts_of, read_index
from dataengine.treatment.families.weight_files import variants_of

SAFETENSORS, GGUF = ".safetensors", ".gguf"
SUFFIXES = (SAFETENSORS, GGUF)
OF_THE_VAE = ("first_stage_model.", "vae.")
OF_TEXT_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")
"""Prefixes of the tensors in files that hold whole pipelines."""
SCALED = (".scale_weight", ".weight_scale", "scaled_fp8", ".scale_input", ".input_scale")
"""Endings of the scales that some files with 8-bit floats need, which diffusers does not read."""


def is_single_file(location: str | Path) -> bool:
    """Whether a location names a model in a single file, readable or not."""
    path = Path(location)
    return path.suffix.lower() in {*SUFFIXES, *PICKLED} and not path.is_dir()


def convert_single_file(file: Path, configs: Path | None, out: Path) -> str:
    """Write the pipeline folder of a single file into `out`; returns its class.

    Raises `ModelRefused` for files that hold something else, or for which diffusers has no loader, and where
    configs are missing; `ConfigRefused` where a package is.
    """
    shapes = _readable(file)
    folder = configs or _configs_of(file, shapes)
    kind, index = read_index(folder / INDEX)
    facts = facts_of(folder)
    refuse_code([path for name in facts.components for path in (folder / name).rglob("*")], pickled=PICKLED)
    inside = _inside(facts, shapes)
    for name in facts.networks:
        if name not in inside and not variants_of(folder / name, str(index[name][0])):
            raise ModelRefused(
                f"{file} holds no {name}, and {folder / name} has no weights of it; give a folder that has, "
                "with --config"
            )
    try:
        loaded = _loaded(file, folder, kind, index, inside)
    except ModelRefused:
        raise
    except Exception as error:  # diffusers' converters stumble over files of another kind in any way
        raise ModelRefused(
            f"{file} does not load as the {' and '.join(inside)} of a {kind}: {reason_of(error)}. Give the "
            "folder of its own class with --config"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    for name, network in loaded.items():
        if lacking := [key for key, weight in network.named_parameters() if weight.is_meta]:
            raise ModelRefused(
                f"{file} is no {kind}: it lacks {len(lacking)} tensors of its {name}, such as {lacking[0]}"
            )
        network.save_pretrained(out / name)
    for name in facts.components:
        if name not in loaded:
            shutil.copytree(folder / name, out / name, symlinks=False)
    shutil.copyfile(folder / INDEX, out / INDEX)
    return kind


def _readable(file: Path) -> dict[str, list[int]]:
    """Shapes by name of a safetensors file; empty for GGUF."""
    suffix = file.suffix.lower()
    if not file.is_file():
        raise ModelRefused(f"{file} does not exist; give a file, a folder, or owner/name of a repository")
    if suffix in PICKLED:
        raise ModelRefused(
            f"{file} may run code when loaded; convert it to .safetensors. A checkpoint of guided-diffusion "
            "is converted here: give its flags as a JSON file with --config"
        )
    if suffix == GGUF:
        refuse_pointer(file)
        if find_spec("gguf") is None:
            raise ConfigRefused(f"{file} needs the package gguf; install it with pip install gguf")
        return {}
    shapes = tensor_shapes(file)
    if any("lora" in name.lower() for name in shapes):
        raise ModelRefused(f"{file} is a LoRA, not a generator; register its base, with --lora {file.name}")
    if scaled := [name for name in shapes if name.endswith(SCALED)]:
        raise ModelRefused(
            f"{file} holds 8-bit floats with scales ({scaled[0]}), which diffusers does not read; take the "
            "file in bfloat16, or as GGUF"
        )
    return shapes


def _inside(facts: FamilyFacts, shapes: dict[str, list[int]]) -> list[str]:
    """The networks that the file holds: the denoiser, and others by the prefixes of its tensors."""
    prefixes = {"vae": OF_THE_VAE, "text_encoder": OF_TEXT_ENCODERS}
    found = []
    for name in facts.networks:
        of = next((prefix for start, prefix in prefixes.items() if name.startswith(start)), None)
        if of is None or any(key.startswith(of) for key in shapes):
            found.append(name)
    return found


def _configs_of(file: Path, shapes: dict[str, list[int]]) -> Path:
    """The folder with the configs of a file: beside it, or in the hub's cache."""
    for folder in (file.with_suffix(""), file.parent):
        if (folder / INDEX).is_file():
            return folder
    repository = _usual_repository(shapes)
    if repository is None:
        raise ModelRefused(
            f"{file} holds none of the models that diffusers recognises in a single file; give the pipeline "
            "folder of its class with --config"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError) as error:
        texts = " ".join(f"'*/{text}'" for text in TEXT)
        raise ModelRefused(
            f"the configs of {file} are neither beside it nor in the cache; give a pipeline folder of its "
            f"class with --config, or run: hf download {repository} {INDEX} --include {texts}"
        ) from error


def _usual_repository(shapes: dict[str, list[int]]) -> str | None:
    """The repository whose configs diffusers takes for such a file; None for one that it does not recognise,
    for which it would take Stable Diffusion 1's."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if not tensors:
        return None
    named: dict[str, str] = fetch_diffusers_config(tensors)
    nothing = fetch_diffusers_config({"": torch.empty(0)})
    if named == nothing and not any(name.startswith("model.diffusion_model.") for name in shapes):
        return None
    return named["pretrained_model_name_or_path"]


def _loaded(file: Path, folder: Path, kind: str, index: dict[str, Any], inside: list[str]) -> dict[str, Any]:
    import diffusers

    options: dict[str, Any] = {"config": str(folder), "local_files_only": True, "torch_dtype": _dtype(file)}
    if any(name.startswith("text_encoder") for name in inside):
        stock = getattr(diffusers, kind)
        if not hasattr(stock, "from_single_file"):
            raise ModelRefused(f"diffusers has no loader of single files for {kind}; save it as a folder")
        left_out = dict.fromkeys(stock._optional_components)
        pipeline = stock.from_single_file(str(file), **options, **left_out)
        return {name: getattr(pipeline, name) for name in inside}
    if file.suffix.lower() == GGUF:
        options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=torch.bfloat16)
    networks = {}
    for name in inside:
        network_class = getattr(diffusers, str(index[name][1]))
        if not hasattr(network_class, "from_single_file"):
            raise ModelRefused(
                f"diffusers has no loader of single files for {index[name][1]}; save it as a pipeline folder"
            )
        network = network_class.from_single_file(str(file), subfolder=name, **options)
        networks[name] = network.dequantize() if file.suffix.lower() == GGUF else network
    return networks


def has_fewer_bits(file: Path) -> bool:
    """Whether a readable single file has weights of fewer than 16 bits, which are written out as bfloat16."""
    return file.suffix.lower() == GGUF or any(kind.startswith("F8") for kind in _kinds(file))


def _kinds(file: Path) -> set[str]:
    """The types of a safetensors file's tensors, as its header names them."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118


def _dtype(file: Path) -> torch.dtype:
    """The type in which the file's weights are kept: its own, or bfloat16 for fewer bits than 16."""
    if file.suffix.lower() == GGUF:
        return torch.bfloat16
    kinds = _kinds(file)
    if "F32" in kinds and not has_fewer_bits(file):
        return torch.float32
    return torch.float16 if "F16" in kinds else torch.bfloat16
