"""SegFormers that transformers saved, read as detectors: of one label, or of two, background and artifact.

With two labels the softmax's second probability is the sigmoid of the difference of the logits, so the last
layer becomes the difference of its two rows, and nothing is lost.
"""

from pathlib import Path
from typing import Any

from dataengine.bounds import read_config
from dataengine.diagnosis.architectures import StateDict
from dataengine.diagnosis.config import IMAGENET_MEAN, IMAGENET_STD, DetectorConfig
from dataengine.errors import ModelRefused
from dataengine.licences import UNSTATED

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SIZES = (
    *("hidden_sizes", "depths", "decoder_hidden_size", "num_attention_heads", "sr_ratios", "mlp_ratios"),
    *("patch_sizes", "strides", "num_encoder_blocks", "num_channels", "hidden_act"),
)
"""What of a SegFormer's configuration decides its map."""
LAST = "decode_head.classifier."
BILINEAR = 2


def is_transformers_folder(folder: Path) -> bool:
    """Whether the folder holds a model of transformers."""
    return (folder / CONFIG).is_file()


def weights_of_transformers(folder: Path) -> Path:
    """The file of its weights. Raises `ModelRefused` where there is none, or several parts."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ModelRefused(f"{folder} holds none of {', '.join(WEIGHTS)}; save the model in one file")


def config_of_transformers(folder: Path) -> DetectorConfig:
    """The detector's configuration. Raises `ModelRefused` for anything but a SegFormer of RGB images whose
    preprocessing a detector has too."""
    about, before = _read(folder / CONFIG), _read(folder / PROCESSOR)
    kind = about.get("model_type")
    if kind != "segformer":
        raise ModelRefused(
            f"{folder / CONFIG} is of model type {kind!r}; of transformers, SegFormers are read as "
            "detectors. Export another architecture as a detector folder"
        )
    if (channels := about.get("num_channels", 3)) != 3:
        raise ModelRefused(
            f"{folder} takes images of {channels} channels; a detector takes RGB: choose another model"
        )
    if before.get("do_center_crop") or before.get("do_pad"):
        raise ModelRefused(
            f"{folder / PROCESSOR} crops or pads; a detector only resizes: choose another model"
        )
    normalised = before.get("do_normalize", True)
    try:
        return DetectorConfig(
            name=str(about.get("_name_or_path") or folder.name)[:200],
            segformer={name: about[name] for name in SIZES if name in about},
            mean=tuple(before.get("image_mean", IMAGENET_MEAN)) if normalised else (0.0, 0.0, 0.0),
            std=tuple(before.get("image_std", IMAGENET_STD)) if normalised else (1.0, 1.0, 1.0),
            size=_side(before.get("size", 512)),
            antialias=before.get("resample", BILINEAR) == BILINEAR,
            licence=UNSTATED,
        )
    except (ValueError, TypeError) as error:
        raise ModelRefused(f"{folder} cannot be a detector: {' '.join(str(error).split())[:300]}") from error


def one_channel(folder: Path, state: StateDict) -> dict[str, Any]:
    """The state dict with one logit, that of "artifact". Raises `ModelRefused` for more than two labels."""
    state = dict(state)
    weight = state.get(f"{LAST}weight")
    if weight is None:
        raise ModelRefused(f"{folder} has no {LAST}weight, so it is no SegFormer for segmentation")
    if len(weight) == 1:
        return state
    names = _read(folder / CONFIG).get("id2label", {})
    if len(weight) != 2:
        named = ", ".join(map(str, list(names.values())[:3])) or "without names"
        raise ModelRefused(
            f"{folder} tells {len(weight)} labels apart ({named}, …); a detector has one, artifact, or two, "
            "background and artifact"
        )
    artifact, other = (0, 1) if "artifact" in str(names.get("0", "")).lower() else (1, 0)
    for part in (f"{LAST}weight", f"{LAST}bias"):
        if part in state:
            both = state[part]
            state[part] = (both[artifact] - both[other])[None]
    return state


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = read_config(file)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{file} cannot be read: {error}; download it again") from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{file} is no configuration; download it again")
    return found


def _side(size: Any) -> int:
    """The side of the square that images are resized to."""
    if isinstance(size, dict) and size.get("height") == size.get("width"):
        size = size.get("height")
    if not isinstance(size, int):
        raise ModelRefused(f"its images are resized to {size}; a detector takes squares")
    return size
