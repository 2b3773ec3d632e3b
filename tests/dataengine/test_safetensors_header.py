"""Shapes are read from the header alone; what is damaged or hostile is refused before memory is taken."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dataengine.bounds import HEADER_BYTES
from dataengine.errors import ModelRefused
from dataengine.safetensors_header import tensor_shapes


def header_of(length: int, content: bytes) -> bytes:
    return length.to_bytes(8, "little") + content


def test_shapes_of_every_kind_of_number_are_read_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = {
        "half": torch.zeros(3, 4, dtype=torch.bfloat16),
        "eighth": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "scalar": torch.tensor(1.0),
    }
    save_file(tensors, file, metadata={"rank": "2"})
    assert tensor_shapes(file) == {"half": [3, 4], "eighth": [2], "scalar": []}
    assert tensor_shapes(tmp_path / "absent.safetensors") == {}
    code = (
        "import sys, pathlib; from dataengine.safetensors_header import tensor_shapes; "
        f"assert len(tensor_shapes(pathlib.Path({str(file)!r}))) == 3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors file"),
        (b"noise", "is not a safetensors file"),
        (header_of(2, b"[]"), "is not a safetensors file"),
        (header_of(HEADER_BYTES, b"{}"), "is not a safetensors file"),
        (header_of(1 << 62, b"{}"), "would take 4611686018427387904 bytes"),
        (header_of(HEADER_BYTES + 1, b"{}"), "16777216 are allowed"),
    ],
)
def test_what_is_damaged_or_hostile_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "noise.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelRefused, match=message):
        tensor_shapes(file)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file({"a": torch.zeros(8)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelRefused, match="damaged"):
        tensor_shapes(file)
