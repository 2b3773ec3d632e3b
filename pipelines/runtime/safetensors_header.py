"""Read tensor shapes from a safetensors file without loading its tensors."""

from pathlib import Path

from dataengine.bounds import check_header
from dataengine.errors import ModelRefused


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file; {} if the file does not exist.

    Raises `ModelRefused` for any other file, and for a header larger than `bounds.HEADER_BYTES`.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return {}
    try:
        check_header(file)
        with safe_open(file, framework="np") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{file} is not a safetensors file, or it is damaged; save it again") from error
