"""A base in few bits: near the full one, and trainable through."""

import importlib.util

import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import LoraSettings
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.quantization import loading_options
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.family_contract import draw


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("dataengine.treatment.families.quantization.find_spec", lambda name: None)
    assert loading_options("unet", None, torch.float32) == {}
    with pytest.raises(ConfigRefused, match=r"artifact-clinic\[quantized\]"):
        loading_options("unet", 4, torch.float32)


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available(),
    reason="bitsandbytes quantises on a GPU only",
)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_carries_a_lora(tmp_path, bits):
    folder = tiny.flux(tmp_path, heads=4)
    full, small = load_family(folder, device="cuda"), load_family(folder, device="cuda", bits=bits)
    stored = {weight.dtype for weight in small.modules()["transformer"].parameters()}
    assert stored & {torch.uint8, torch.int8}
    difference = (draw(full) - draw(small)).abs()
    assert 0 < difference.mean() < 0.05
    small.adapter.add(LoraSettings(rank=2), seed=0)
    draw(small, grad_last=1).mean().backward()
    second = [w for name, w in small.adapter.parameters().items() if "lora_B" in name]
    assert all(weight.grad.abs().max() > 0 for weight in second)
