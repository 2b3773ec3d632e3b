"""The weight files of a pipeline's networks, checked by their names and headers before any is loaded."""

from collections.abc import Mapping
from pathlib import Path

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused
from dataengine.safetensors_header import refuse_pointer, tensor_shapes
from dataengine.treatment.families.catalog import PIPELINES

STEMS: Mapping[str, str] = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Names under which each library saves weights, without variant, shard number and suffix."""
SUFFIX = ".safetensors"


def variants_of(folder: Path, library: str) -> list[str | None]:
    """The variants of which a network's folder holds weights: None for files without one, "fp16", …"""
    stem = STEMS[library]
    found = {
        name.removeprefix(stem).removesuffix(SUFFIX).strip(".")
        for name in (path.name for path in folder.glob(f"{stem}*{SUFFIX}"))
        if "-of-" not in name
    }
    found |= {
        path.name.removeprefix(f"{stem}{SUFFIX}.index").removesuffix("json").strip(".")
        for path in folder.glob(f"{stem}{SUFFIX}.index*json")
    }
    return [variant or None for variant in sorted(found)]


def pipeline_variant(folder: Path) -> str | None:
    """The variant of weights of a validated pipeline folder; see `variant_of`."""
    index = read_config(folder / "model_index.json")
    networks = PIPELINES[index["_class_name"]].networks
    return variant_of(folder, {name: index[name][0] for name in networks})


def variant_of(folder: Path, networks: Mapping[str, str]) -> str | None:
    """The variant that diffusers must be asked for, given the library of each network; None if every network
    has files without one.

    Raises `ModelRefused`, naming the folder, where a network has none, or where no one variant serves all.
    """
    missing: dict[str, list[str | None]] = {}
    for name, library in networks.items():
        variants = variants_of(folder / name, library)
        if not variants:
            raise ModelRefused(_no_weights(folder / name, library))
        if None not in variants:
            missing[name] = variants
    common = set.intersection(*map(set, missing.values())) if missing else {None}
    if not common:
        held = ", ".join(f"{name} holds {' and '.join(map(str, each))}" for name, each in missing.items())
        raise ModelRefused(
            f"{folder} has no variant of weights for all its networks ({held}); save them alike"
        )
    return min(common, key=str)


def own_variant(folder: Path, library: str, variant: str | None) -> str | None:
    """The variant that diffusers reads for one network when the pipeline is asked for `variant`."""
    return variant if variant in variants_of(folder, library) else None


def check_weights(folder: Path, library: str, variant: str | None = None) -> dict[str, list[int]]:
    """Shapes by name of a network's weights of that variant, from the headers of its files.

    Raises `ModelRefused`, naming the file: none there, a Git LFS pointer, an index that names a file or
    tensor that is absent, a damaged or truncated file.
    """
    stem = STEMS[library]
    infix = f".{variant}" if variant else ""
    index, whole = folder / f"{stem}{SUFFIX}.index{infix}.json", folder / f"{stem}{infix}{SUFFIX}"
    if not index.is_file():
        if not whole.is_file():
            raise ModelRefused(_no_weights(folder, library))
        return tensor_shapes(whole)
    named = _weight_map(index)
    shapes: dict[str, list[int]] = {}
    for shard in sorted(set(named.values())):
        if not (folder / shard).is_file():
            beside = f", or remove the index, since {whole.name} is there" if whole.is_file() else ""
            raise ModelRefused(f"{index} names {shard}, which is absent; download the missing file{beside}")
        shapes |= tensor_shapes(folder / shard)
    if absent := sorted(named.keys() - shapes.keys()):
        raise ModelRefused(
            f"{index} names {absent[0]}, which none of its files contains; download them again"
        )
    return shapes


def _weight_map(index: Path) -> dict[str, str]:
    """File by tensor of an index."""
    try:
        refuse_pointer(index)
        named = read_config(index)["weight_map"]
        files = {str(tensor): str(file) for tensor, file in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(
            f"{index} is no index of weights: it has no weight_map; download it again"
        ) from error
    if outside := [file for file in files.values() if Path(file).name != file]:
        raise ModelRefused(f"{index} names {outside[0]}, which is not a file beside it")
    return files


def _no_weights(folder: Path, library: str) -> str:
    stem, others = STEMS[library], sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
    if others:
        return f"{folder} holds {others[0]}; expected {stem}{SUFFIX} or its shards with their index"
    return f"{folder} holds no {SUFFIX} file; download it completely, or save it with safe_serialization"
