"""HPSv2 (Wu et al. 2023), a CLIP fine-tuned on human preferences, through open_clip's classes.

Its authors publish weights alone, a torch file for ViT-H-14 (HPS_v2_compressed.pt, HPS_v2.1_compressed.pt of
xswu/HPSv2): they are read as tensors only, or from a safetensors file. Needs the extra `hpsv2`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.bounds import read_config
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.model_files import PICKLED, TENSORS_ONLY, check_model_folder
from dataengine.state_dicts import read_state

ARCHITECTURE = "ViT-H-14"
CONFIG_FILE = "open_clip_config.json"
"""open_clip's own file beside weights, whose `model_cfg` names another architecture than ViT-H-14."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's normalisation, which the released code uses."""
ABSENT = "HPSv2 needs open_clip; install it with pip install 'artifact-clinic[hpsv2]'"


class PreferenceModel:
    """The frozen model with its tokenizer and preprocessing."""

    def __init__(self, location: str | Path, device: str | torch.device = "cpu") -> None:
        """`location` is the file of the weights, or the folder that holds just one, with
        `open_clip_config.json` where its architecture is not ViT-H-14.

        Raises `ConfigRefused` without open_clip, `ModelRefused` for weights that are missing or do not fit.
        """
        try:
            from open_clip import model as architectures
            from open_clip import tokenizer
        except ImportError as error:
            raise ConfigRefused(ABSENT) from error
        file = weights_file(Path(location))
        config = architecture_config(file.parent)
        try:
            self._model: Any = architectures.CLIP(**config)
            # A buffer that earlier versions of open_clip stored.
            state = {key: value for key, value in read_state(file).items() if key != "attn_mask"}
            self._model.load_state_dict(state)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelRefused(
                f"{file} does not hold the weights of this CLIP of open_clip ({ARCHITECTURE} without "
                f"{CONFIG_FILE}): {str(error).splitlines()[0]}; give HPS_v2.1_compressed.pt of xswu/HPSv2"
            ) from error
        self._model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self._tokenizer = tokenizer.SimpleTokenizer(context_length=self._model.context_length)
        self._side = int(config["vision_cfg"]["image_size"])

    def cosines(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """cos(image, prompt) of images float32 N3HW in [0, 1], shape (N,), with gradient to the pixels.
        Prompts beyond CLIP's limit are truncated."""
        tokens = self._tokenizer(list(prompts)).to(images.device)
        shown = self._model.encode_image(fitted(images, self._side), normalize=True)
        return (shown * self._model.encode_text(tokens, normalize=True)).sum(-1)


def fitted(images: Tensor, side: int) -> Tensor:
    """Images N3HW in [0, 1] as the released code prepares them, differentiable, N3 side side: the longer side
    is resized to `side` (bicubic, antialiased), black fills the rest on both sides, then OpenAI's
    normalisation."""
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    size = round(height * scale), round(width * scale)
    if scale != 1:
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    down, right = side - size[0], side - size[1]
    images = F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
    mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def weights_file(location: Path) -> Path:
    """The file of the weights. Raises `ModelRefused` for a folder without one or with several, and for one
    that holds code."""
    if location.is_file():
        return location
    if not location.is_dir():
        raise ModelRefused(
            f"there is no file or folder {location}; name the downloaded HPS_v2.1_compressed.pt of xswu/HPSv2"
        )
    check_model_folder(location, PICKLED - TENSORS_ONLY)
    found = sorted(one for one in location.iterdir() if one.suffix in {".safetensors", *TENSORS_ONLY})
    if len(found) != 1:
        named = ", ".join(one.name for one in found) or "none"
        raise ModelRefused(
            f"{location} must hold one file of weights, and holds {named}; name the file itself"
        )
    return found[0]


def architecture_config(folder: Path) -> dict[str, Any]:
    """The arguments of open_clip's `CLIP`, from `open_clip_config.json` or those of ViT-H-14.

    Raises `ModelRefused` for a file that names none.
    """
    from open_clip.factory import get_model_config

    file = folder / CONFIG_FILE
    if not file.is_file():
        return dict(get_model_config(ARCHITECTURE))
    try:
        content = read_config(file)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{file} is not JSON: {error}") from error
    config: Any = content.get("model_cfg") if isinstance(content, dict) else None
    config = config if isinstance(config, dict) else {}
    towers: list[Any] = [config.get(name) for name in ("vision_cfg", "text_cfg")]
    if not all(isinstance(one, dict) for one in towers) or "image_size" not in towers[0]:
        raise ModelRefused(f"{file} has no model_cfg with vision_cfg (and image_size) and text_cfg")
    if any(key.startswith(("hf_", "timm_")) for one in towers for key in one):
        raise ModelRefused(f"{file} names a tower of another library; only open_clip's own are read")
    return dict(config)
