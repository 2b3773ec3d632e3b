"""The keys of our LoRAs against those that ComfyUI maps."""

import pytest
from safetensors.torch import load_file

from dataengine.treatment.config import LoraSettings
from dataengine.treatment.families.lora import WEIGHTS, Adapter
from dataengine.treatment.families.rows import row_of
from dataengine.treatment.tuning.sharing import COMFYUI, to_comfyui
from tests.dataengine.treatment.families.comfyui_keys import MAPPED, unread
from tests.dataengine.treatment.families.tiny_pipelines import FEW, TINY, tiny_pipeline


def test_the_facts_name_every_class():
    assert MAPPED.keys() == TINY.keys()


def saved(kind, folder, targets="all"):
    """Keys of the file for diffusers and of that for ComfyUI."""
    pipeline = tiny_pipeline(kind)
    row = row_of(type(pipeline).__name__)
    component = "unet" if "unet" in pipeline.components else "transformer"
    adapter = Adapter(pipeline, component, {"attention": row.attention, "all": row.layers})
    adapter.add(LoraSettings(rank=2, alpha=3.0, targets=targets), seed=1)
    adapter.save(folder)
    to_comfyui(folder / WEIGHTS, folder / COMFYUI)
    return [set(load_file(folder / name)) for name in (WEIGHTS, COMFYUI)]


MAPS = [kind for kind in TINY if MAPPED[kind]]


@pytest.mark.parametrize(
    "kind", [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.generators) for kind in MAPS]
)
def test_comfyui_maps_every_key(kind, tmp_path):
    own, keys = saved(kind, tmp_path)
    assert keys and len(keys) == len(own) / 2 * 3 and unread(kind, keys) == []


@pytest.mark.parametrize("kind", ["ZImagePipeline", "StableDiffusion3Pipeline", "PixArtSigmaPipeline"])
def test_the_file_for_diffusers_has_names_that_comfyui_maps_too(kind, tmp_path):
    """Of transformers; it would be read with a scale of 1."""
    own, _ = saved(kind, tmp_path, "attention")
    assert unread(kind, own) == []


def test_other_names_would_be_left_out():
    """Those of a UNet in diffusers' keys, whose attention ComfyUI knows as `processor.to_q` only."""
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert unread("StableDiffusionPipeline", {f"{stem}.lora_A.weight"}) == [f"{stem}.lora_A.weight"]
    assert unread("FluxPipeline", {"lora_transformer_x.lora_up.weight"})
