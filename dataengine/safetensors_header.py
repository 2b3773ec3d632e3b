"""Read tensor shapes from a safetensors file without loading its tensors."""

from pathlib import Path

from dataengine.bounds import check_header
from dataengine.errors import ModelRefused

LFS = b"version https://git-lfs.github.com/spec/"
"""First bytes of the text that Git leaves in place of a large file that was not downloaded."""
POINTER_BYTES = 1024
"""Such texts are shorter than this by their specification."""


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file; {} if the file does not exist.

    Raises `ModelRefused` for any other file, for one that ends early, and for a header larger than
    `bounds.HEADER_BYTES`.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return {}
    try:
        refuse_pointer(file)
        check_header(file)
        with safe_open(file, framework="np") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{file} is not a safetensors file, or it is damaged; save it again") from error


def refuse_pointer(file: Path) -> None:
    """Raise `ModelRefused` for the pointer that Git LFS leaves where a file was not downloaded; `OSError`."""
    if file.stat().st_size < POINTER_BYTES and file.read_bytes().startswith(LFS):
        raise ModelRefused(
            f"{file} is a Git LFS pointer instead of the file itself; run `git lfs pull` in its repository, "
            "or download the file"
        )
