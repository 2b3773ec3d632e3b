"""Read a model's tensors from a safetensors or torch file; nothing in the file is executed."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataengine.bounds import check_header
from dataengine.errors import ModelRefused

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep a state dict in their checkpoints."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Of all names: by `DataParallel`, by `torch.compile`, by Lightning."""


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors or torch file.

    A torch file may wrap it ("state_dict", "model"), and all its names may have a prefix ("module."). Raises
    `ModelRefused` when it is missing or is something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            check_header(file)
            return _without_prefix(load_file(file))
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ModelRefused(f"{file} cannot be read as weights: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            f"{file} holds more than tensors and is not loaded; save its state dict as safetensors: {error}"
        ) from error
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelRefused(f"{file} is not a state dict of tensors; save one as safetensors")
    return _without_prefix(state)


def _unwrapped(content: Any) -> Any:
    """The state dict in a training script's checkpoint, which may hold an optimizer and counts beside it."""
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    return content


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes that wrappers such as `DataParallel` put before every name."""
    while state and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
