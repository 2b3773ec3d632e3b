"""Tensor shapes from a safetensors file, without its tensors."""

from pathlib import Path

from dataengine.errors import ModelRefused

MAX_HEADER = 100_000_000
"""Bytes of a header that are read; safetensors itself has the same bound."""
LENGTH_BYTES = 8


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file, nothing else read; {} without the file.

    Raises `ModelRefused` for any other file, and for a header that claims more than `MAX_HEADER` bytes.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return {}
    try:
        with file.open("rb") as start:
            claimed = int.from_bytes(start.read(LENGTH_BYTES), "little")
        if claimed > MAX_HEADER:
            raise ModelRefused(
                f"{file} claims a header of {claimed} bytes, at most {MAX_HEADER} are read: it is no "
                "safetensors file, or it is damaged; save it again"
            )
        with safe_open(file, framework="np") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{file} is no safetensors file, or it is damaged; save it again") from error
