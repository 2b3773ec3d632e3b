"""LoRAs for others: fresh pipelines, ComfyUI's names, strengths, fusing, blends."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import generate
from dataengine.treatment.tuning.sharing import COMFYUI, blend, fuse, set_strength, to_comfyui
from tests.dataengine.treatment.families.family_contract import disturb
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=2, guidance=3.0)


def drawn(family):
    return generate(family, PROMPTS[:1], [3], SETTINGS).astype(int)


def near(first, second):
    return np.abs(first - second).max() <= 1


@pytest.fixture(params=["flux_folder", "sd_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def treated(folder, tmp_path):
    """A generator with a LoRA of rank 2 and alpha 3, and the folder that it is saved in."""
    family = load_family(folder)
    family.adapter.add(LoraSettings(rank=2, alpha=3.0, targets="all"), seed=1)
    disturb(family)
    family.adapter.save(tmp_path / "lora")
    return family, tmp_path / "lora"


def test_comfyui_reads_every_matrix_by_its_name(treated, tmp_path):
    """Its key map: `lora_unet_` and diffusers' module path with underscores, or `transformer.` and that path,
    and the suffixes of the usual LoRA files."""
    family, lora = treated
    to_comfyui(lora / "pytorch_lora_weights.safetensors", tmp_path / COMFYUI)
    found = load_file(tmp_path / COMFYUI)
    component = "transformer" if family.name == "flux" else "unet"
    modules = dict(family.modules()[component].named_modules())

    def named(path):
        return f"transformer.{path}" if component == "transformer" else f"lora_unet_{path.replace('.', '_')}"

    known = {
        named(name.replace(".base_layer", ""))
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    stems = {key.removesuffix(".alpha") for key in found if key.endswith(".alpha")}
    assert stems and stems <= known and len(found) == 3 * len(stems)
    matrices = family.adapter.parameters()
    stem = next(iter(sorted(stems)))
    update = found[f"{stem}.lora_up.weight"] @ found[f"{stem}.lora_down.weight"]
    scale = float(found[f"{stem}.alpha"]) / found[f"{stem}.lora_down.weight"].shape[0]
    path = next(name for name in matrices if "lora_A" in name and named(name.split(".lora_A")[0]) == stem)
    expected = matrices[path.replace("lora_A", "lora_B")] @ matrices[path]
    assert scale == 1.5 and torch.allclose(update, expected)


def test_strength_zero_is_the_base_and_one_is_the_lora(treated, folder):
    family, _ = treated
    full = drawn(family)
    set_strength(family, 0.0)
    assert near(drawn(family), drawn(load_family(folder)))
    set_strength(family, 1.0)
    assert near(drawn(family), full)


def test_a_fused_generator_needs_no_lora(treated):
    family, _ = treated
    full = drawn(family)
    fuse(family)
    assert not family.adapter.parameters() and near(drawn(family), full)
    with pytest.raises(ConfigRefused, match="no LoRA attached"):
        fuse(family)


def test_several_loras_blend(treated, folder):
    family, lora = treated
    both = load_family(folder)
    blend(both, {"hands": (lora, 0.25), "faces": (lora, 0.75)})
    assert near(drawn(both), drawn(family))
    with pytest.raises(ConfigRefused, match="pass at least one"):
        blend(load_family(folder), {})
    with pytest.raises(ConfigRefused, match="already has"):
        blend(family, {"hands": (lora, 1.0)})


def test_what_is_no_lora_is_refused(tmp_path):
    save_file({"unet.something": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelRefused, match="no pairs"):
        to_comfyui(tmp_path / "odd.safetensors", tmp_path / "out.safetensors")


def test_a_lora_for_another_base_is_refused(treated, flux_folder, sd_folder):
    family, lora = treated
    other = load_family(sd_folder if family.name == "flux" else flux_folder)
    with pytest.raises(ModelRefused, match="no LoRA of this generator's"):
        other.adapter.load(lora)
