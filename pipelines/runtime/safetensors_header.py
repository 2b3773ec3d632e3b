"""Tensor shapes from a safetensors file, without its tensors."""

import json
import struct
from pathlib import Path

from dataengine.errors import ModelRefused

MAX_HEADER = 100 << 20


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file, nothing else read; {} without the file.

    Raises `ModelRefused` for a file of another kind.
    """
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, MAX_HEADER)))
        return {name: told["shape"] for name, told in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{file} is no safetensors file, or it is damaged; save it again") from error
