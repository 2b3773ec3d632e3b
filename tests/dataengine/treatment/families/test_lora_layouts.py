"""LoRAs in the layouts that people publish: attached as by the stock pipeline, or refused by name."""

import json
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.families.inspection import inspect_pipeline
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.tuning.sharing import set_strength, to_comfyui
from tests.dataengine.treatment import tiny

LAYERS = {
    "unet": r".*attn[12]\.(to_[qkv]|to_out\.0)",
    "transformer": r".*(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|ff\.net\.2|proj_mlp)",
    "text_encoder": r".*(q_proj|v_proj|fc1)",
    "text_encoder_2": r".*(k_proj|out_proj)",
}
"""Layers that get a LoRA, by component; no two components have the same."""


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory) -> Path:
    return tiny.stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@cache
def base(folder):
    """The folder's generator without a LoRA; not to be changed."""
    return load_family(folder)


def with_lora(folder, file):
    """A copy of it with the LoRA."""
    family = deepcopy(base(folder))
    family.adapter.load(file)
    return family


def layers_of(folder, *components):
    """Names and weight shapes of the layers that get a LoRA, by component."""
    return {
        component: {
            name: tuple(module.weight.shape)
            for name, module in getattr(base(folder).pipeline, component).named_modules()
            if isinstance(module, torch.nn.Linear) and re.fullmatch(LAYERS[component], name)
        }
        for component in components
    }


def random_lora(layers, rank=lambda number: 2, seed=0):
    """(down, up) by component and layer; `rank` of the layer's number."""
    rng = torch.Generator().manual_seed(seed)
    return {
        component: {
            name: (
                torch.randn((rank(i), shape[1]), generator=rng) * 0.3,
                torch.randn((shape[0], rank(i)), generator=rng) * 0.3,
            )
            for i, (name, shape) in enumerate(named.items())
        }
        for component, named in layers.items()
    }


def diffusers_layout(lora, first="lora_A", second="lora_B"):
    """`unet.path.lora_A.weight`: diffusers' own, in peft's words."""
    return {
        f"{component}.{name}.{end}.weight": matrix.contiguous()
        for component, named in lora.items()
        for name, pair in named.items()
        for end, matrix in zip((first, second), pair, strict=True)
    }


def kohya_layout(lora, alpha, unet="unet", encoders=("te", "te2")):
    """`lora_unet_path.lora_down.weight` with an alpha per layer."""
    names = {"unet": unet, "transformer": unet, "text_encoder": f"{encoders[0]}_text_model"}
    names["text_encoder_2"] = f"{encoders[1]}_text_model"
    tensors = {}
    for component, named in lora.items():
        for number, (name, (down, up)) in enumerate(named.items()):
            stem = f"lora_{names[component]}_{name.removeprefix('text_model.').replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = down.contiguous()
            tensors[f"{stem}.lora_up.weight"] = up.contiguous()
            tensors[f"{stem}.alpha"] = torch.tensor(float(alpha(number)))
    return tensors


def merged(folder, lora, alpha):
    """The folder's family with the updates alpha / rank · up · down added to its weights, layer by layer:
    what a LoRA is by its definition (Hu et al. 2021)."""
    family = deepcopy(base(folder))
    for component, named in lora.items():
        network = getattr(family.pipeline, component)
        for number, (name, (down, up)) in enumerate(named.items()):
            network.get_submodule(name).weight.data += alpha(number) / len(down) * up @ down
    return family


def conditioning_and_answer(family):
    """What its text encoders and its denoiser say, as one vector."""
    conditioning = family.encode_prompts(["a red house"])
    latents = family.initial_latents([3], family.size)
    with torch.no_grad():
        answer = family.predict(latents, torch.full((1,), 0.5), conditioning, family.guidance)
    names = [name for name in ("sequence", "pooled") if name in conditioning.tensors]
    return torch.cat([answer.flatten(), *(conditioning[name].flatten() for name in names)])


def same(left, right):
    return torch.allclose(conditioning_and_answer(left), conditioning_and_answer(right), atol=1e-3, rtol=1e-3)


def saved(folder, tensors):
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "lora.safetensors")
    return folder / "lora.safetensors"


SD, XL, FLUX = "sd_folder", "xl_folder", "flux_folder"
UNET, BOTH, THREE = ("unet",), ("unet", "text_encoder"), ("unet", "text_encoder", "text_encoder_2")
TRANSFORMER, WITH_CLIP = ("transformer",), ("transformer", "text_encoder")


@pytest.mark.parametrize(
    ("folder", "components", "layout"),
    [
        (SD, BOTH, lambda lora: kohya_layout(lora, lambda number: 3.0)),
        (SD, UNET, lambda lora: kohya_layout(lora, lambda number: 3.0)),
        (SD, ("text_encoder",), lambda lora: kohya_layout(lora, lambda number: 3.0)),
        (XL, THREE, lambda lora: kohya_layout(lora, lambda number: 3.0, encoders=("te1", "te2"))),
        (FLUX, TRANSFORMER, lambda lora: kohya_layout(lora, lambda number: 3.0, "transformer")),
        (FLUX, WITH_CLIP, lambda lora: kohya_layout(lora, lambda number: 3.0, "transformer", ("te1", ""))),
    ],
)
def test_kohyas_and_comfyuis_keys_are_read_with_their_alphas(folder, components, layout, request, tmp_path):
    folder = request.getfixturevalue(folder)
    lora = random_lora(layers_of(folder, *components))
    if components == ("text_encoder",):
        with pytest.raises(ModelRefused, match="no LoRA of this generator's unet"):
            with_lora(folder, saved(tmp_path, layout(lora)))
        return
    family = with_lora(folder, saved(tmp_path, layout(lora)))
    assert same(family, merged(folder, lora, lambda number: 3.0)) and not same(family, base(folder))


@pytest.mark.parametrize(
    ("folder", "components", "ends"),
    [
        (SD, BOTH, ("lora_A", "lora_B")),
        (SD, UNET, ("lora.down", "lora.up")),
        (XL, THREE, ("lora_A", "lora_B")),
        (FLUX, WITH_CLIP, ("lora_A", "lora_B")),
    ],
)
def test_the_layouts_of_diffusers_and_its_dreambooth_are_read(folder, components, ends, request, tmp_path):
    folder = request.getfixturevalue(folder)
    lora = random_lora(layers_of(folder, *components))
    family = with_lora(folder, saved(tmp_path, diffusers_layout(lora, *ends)))
    assert same(family, merged(folder, lora, lambda number: 2.0)) and not same(family, base(folder))
    assert all("text_encoder" not in name for name in family.adapter.parameters())


def test_each_layer_has_its_own_rank_and_alpha(sd_folder, tmp_path):
    """Stock diffusers drops alphas that differ among attention layers, and says nothing."""
    rank, alpha = (lambda number: 1 + number % 3), (lambda number: 0.5 + number % 2)
    lora = random_lora(layers_of(sd_folder, *BOTH), rank)
    family = with_lora(sd_folder, saved(tmp_path, kohya_layout(lora, alpha)))
    assert same(family, merged(sd_folder, lora, alpha))


def sgm_name(path):
    """A layer of SDXL in the names of its authors, which kohya uses; see diffusers' conversion scripts."""
    places = {
        "down_blocks.1.attentions.0": "input_blocks_3_1",
        "mid_block.attentions.0": "middle_block_1",
        "up_blocks.0.attentions.0": "output_blocks_0_1",
        "up_blocks.0.attentions.1": "output_blocks_1_1",
    }
    place = next(place for place in places if path.startswith(place + "."))
    return places[place] + path.removeprefix(place).replace(".", "_")


def test_sdxl_under_its_authors_names_equals_stock_diffusers(xl_folder, tmp_path):
    from diffusers import StableDiffusionXLPipeline

    lora = random_lora(layers_of(xl_folder, "unet"))
    tensors = {}
    for path, (down, up) in lora["unet"].items():
        stem = f"lora_unet_{sgm_name(path)}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    file = saved(tmp_path, tensors)
    family, stock = with_lora(xl_folder, file), deepcopy(base(xl_folder))
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    pipeline.load_lora_weights(file)
    stock.pipeline.unet = pipeline.unet
    assert same(family, stock) and same(family, merged(xl_folder, lora, lambda number: 1.0))


def test_flux_under_its_authors_names_equals_stock_diffusers(flux_folder, tmp_path):
    """Their fused queries, keys and values are split into three layers."""
    from diffusers import FluxPipeline

    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (rows, columns) in {"img_attn_qkv": (96, 32), "img_attn_proj": (32, 32)}.items():
        stem = f"lora_unet_double_blocks_0_{name}"
        tensors[f"{stem}.lora_down.weight"] = torch.randn((2, columns), generator=rng) * 0.3
        tensors[f"{stem}.lora_up.weight"] = torch.randn((rows, 2), generator=rng) * 0.3
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    file = saved(tmp_path, tensors)
    family, stock = with_lora(flux_folder, file), deepcopy(base(flux_folder))
    pipeline = FluxPipeline.from_pretrained(flux_folder)
    pipeline.load_lora_weights(file)
    stock.pipeline.transformer = pipeline.transformer
    assert (
        len(family.adapter.parameters()) == 8 and same(family, stock) and not same(family, base(flux_folder))
    )


@pytest.mark.parametrize(
    ("folder", "components"), [(SD, BOTH), (XL, THREE), (FLUX, WITH_CLIP)], ids=["sd", "xl", "flux"]
)
def test_saved_again_it_draws_the_same_in_both_layouts(folder, components, request, tmp_path):
    """As after a treatment: with its text encoders, for diffusers and for ComfyUI."""
    folder = request.getfixturevalue(folder)
    lora = random_lora(layers_of(folder, *components), lambda number: 1 + number % 2)
    family = with_lora(folder, saved(tmp_path, diffusers_layout(lora)))
    family.adapter.save(tmp_path / "again")
    to_comfyui(tmp_path / "again" / "pytorch_lora_weights.safetensors", tmp_path / "comfyui.safetensors")
    keys = load_file(tmp_path / "comfyui.safetensors").keys()
    starts = {key.split(".")[0] if key.startswith("transformer.") else key.split("_")[1] for key in keys}
    assert starts == {components[0], *("te1", "te2")[: len(components) - 1]}
    assert any("_text_model_encoder_layers_0_" in key for key in keys)
    for again in (tmp_path / "again", tmp_path / "comfyui.safetensors"):
        assert same(family, with_lora(folder, again))


def test_alphas_of_diffusers_metadata_travel_to_comfyui(sd_folder, tmp_path):
    lora = random_lora(layers_of(sd_folder, "unet"))
    special = next(iter(lora["unet"]))
    metadata = {"unet.r": 2, "unet.lora_alpha": 6, "unet.alpha_pattern": {special: 1}}
    metadata["unet.target_modules"] = list(lora["unet"])
    save_file(
        diffusers_layout(lora),
        tmp_path / "lora.safetensors",
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata)},
    )
    to_comfyui(tmp_path / "lora.safetensors", tmp_path / "comfyui.safetensors")
    expected = merged(sd_folder, lora, lambda number: 6.0 if number else 1.0)
    for file in ("lora.safetensors", "comfyui.safetensors"):
        assert same(with_lora(sd_folder, tmp_path / file), expected)


def test_without_it_the_base_is_drawn_and_it_can_be_scaled(sd_folder, tmp_path):
    lora = random_lora(layers_of(sd_folder, *BOTH))
    family = with_lora(sd_folder, saved(tmp_path, kohya_layout(lora, lambda number: 2.0)))
    with family.adapter.disabled():
        assert same(family, base(sd_folder))
    assert same(family, merged(sd_folder, lora, lambda number: 2.0))
    encoder = family.pipeline.text_encoder
    assert not any(weight.requires_grad for weight in encoder.parameters()), "treatments train the denoiser"
    set_strength(family, 0.5)
    assert same(family, merged(sd_folder, lora, lambda number: 1.0))


def without(tensors, end):
    key = next(key for key in tensors if key.endswith(end))
    return {name: value for name, value in tensors.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda good: {"transformer.x.lora_A.weight": torch.zeros(2, 2)} | good,
            "no LoRA of this generator's",
        ),
        (lambda good: {"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, "peft's own name"),
        (lambda good: {"down_blocks.0.to_q_lora.down.weight": torch.zeros(2, 2)}, "no LoRA of this"),
        (lambda good: {"lora_unet_nowhere_to_q.lora_down.weight": torch.zeros(2, 2)}, "does not fit"),
        (
            lambda good: {"unet.nowhere.to_q.lora_A.weight": torch.zeros(2, 2)},
            "does not fit|another generator",
        ),
        (lambda good: without(good, "lora_B.weight"), "does not fit|another generator|in pairs"),
        (lambda good: {key: torch.cat([value, value], 1) for key, value in good.items()}, "does not fit"),
        (lambda good: good | {"unet.mid_block.to_q.lora_A.dora_scale": torch.zeros(2)}, "is a DoRA"),
        (lambda good: {"lora_unet_x.hada_w1_a": torch.zeros(2)}, "is a LoHa"),
        (lambda good: {"lora_unet_x.lokr_w1": torch.zeros(2)}, "is a LoKr"),
        (lambda good: good | {"unet.conv_in.lora.bias": torch.zeros(2)}, "is no matrix"),
        (lambda good: good | {"unet.conv_in.alpha": torch.tensor(1.0)}, "alpha without its matrices"),
        (lambda good: {"unet.conv_in.weight": torch.zeros(2)}, "contains no LoRA weights"),
    ],
)
def test_what_would_be_attached_in_part_is_refused(spoil, message, sd_folder, tmp_path):
    good = diffusers_layout(random_lora(layers_of(sd_folder, "unet")))
    file = saved(tmp_path, spoil(good))
    with pytest.raises(ModelRefused, match=message):
        with_lora(sd_folder, file)


def test_other_bases_and_files_are_refused(sd_folder, xl_folder, flux_folder, tmp_path):
    file = saved(tmp_path, diffusers_layout(random_lora(layers_of(sd_folder, "unet"))))
    for other in (xl_folder, flux_folder):
        with pytest.raises(ModelRefused):
            inspect_pipeline(other, file)
    (tmp_path / "lora.pt").write_bytes(b"pickle")
    with pytest.raises(ModelRefused, match=r"no \.safetensors file"):
        inspect_pipeline(sd_folder, tmp_path / "lora.pt")
    (tmp_path / "pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(ModelRefused, match="Git LFS pointer"):
        inspect_pipeline(sd_folder, tmp_path / "pointer.safetensors")
    with pytest.raises(ConfigRefused, match="takes no LoRA"):
        inspect_pipeline(tiny.ddpm(tmp_path / "ddpm"), file)
