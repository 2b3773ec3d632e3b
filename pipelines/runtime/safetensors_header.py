"""Read tensor shapes from a safetensors file without loading its tensors."""

from pathlib import Path

from dataengine.errors import ModelRefused

MAX_HEADER = 100_000_000
"""Largest header in bytes that is read; safetensors has the same limit."""
LENGTH_BYTES = 8


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file; {} if the file does not exist.

    Raises `ModelRefused` for any other file, and for a header larger than `MAX_HEADER` bytes.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return {}
    try:
        with file.open("rb") as start:
            claimed = int.from_bytes(start.read(LENGTH_BYTES), "little")
        if claimed > MAX_HEADER:
            raise ModelRefused(
                f"{file} claims a header of {claimed} bytes, the limit is {MAX_HEADER}: it is not a "
                "safetensors file, or it is damaged; save it again"
            )
        with safe_open(file, framework="np") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{file} is not a safetensors file, or it is damaged; save it again") from error
