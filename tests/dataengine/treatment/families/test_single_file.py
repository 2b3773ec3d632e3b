"""Generators in one file: what it holds and what a folder adds draws as the folder that it was made from."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.inspection import inspect_pipeline
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.single_file import convert_single_file, is_single_file
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment.families.original_keys import stable_diffusion_file
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=2, guidance=3.0)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def configs_of(folder, out, keep=()):
    """The folder without its weights, but for those of `keep`."""

    def weights(where, names):
        return [name for name in names if name.endswith(".safetensors") and where.split("/")[-1] not in keep]

    return shutil.copytree(folder, out, ignore=weights)


def images(folder):
    return generate(load_family(folder), list(PROMPTS[:2]), [0, 1], SETTINGS).astype(int)


@pytest.fixture(scope="module")
def sd_file(sd_folder, tmp_path_factory):
    """A whole Stable Diffusion in one file, in float32."""
    pipeline = load_family(sd_folder).pipeline
    return stable_diffusion_file(pipeline, tmp_path_factory.mktemp("single") / "whole.safetensors")


def test_a_whole_pipeline_in_one_file(sd_folder, sd_file, tmp_path):
    configs = configs_of(sd_folder, tmp_path / "configs")
    assert convert_single_file(sd_file, configs, tmp_path / "out") == "StableDiffusionPipeline"
    assert inspect_pipeline(tmp_path / "out") == "StableDiffusionPipeline"
    assert np.array_equal(images(tmp_path / "out"), images(sd_folder))


def test_configs_lie_beside_the_file(sd_folder, sd_file, tmp_path):
    configs_of(sd_folder, tmp_path / "mine")
    shutil.copyfile(sd_file, tmp_path / "mine.safetensors")
    convert_single_file(tmp_path / "mine.safetensors", None, tmp_path / "out")
    assert np.array_equal(images(tmp_path / "out"), images(sd_folder))


def test_what_the_file_lacks_comes_from_the_folder(sd_folder, tmp_path):
    pipeline = load_family(sd_folder).pipeline
    file = stable_diffusion_file(pipeline, tmp_path / "unet.safetensors", vae=False, text=False)
    configs = configs_of(sd_folder, tmp_path / "configs", keep=("vae", "text_encoder"))
    convert_single_file(file, configs, tmp_path / "out")
    assert np.array_equal(images(tmp_path / "out"), images(sd_folder))
    bare = configs_of(sd_folder, tmp_path / "bare")
    with pytest.raises(ModelRefused, match=r"unet\.safetensors holds no vae, and .*bare/vae has no weights"):
        convert_single_file(file, bare, tmp_path / "none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_denoiser_alone_in_fewer_bits(flux_folder, tmp_path, dtype):
    tensors = load_file(flux_folder / "transformer" / WEIGHTS)
    file = tmp_path / "flux.safetensors"
    save_file({name: weight.to(dtype) for name, weight in tensors.items()}, file)
    configs = configs_of(flux_folder, tmp_path / "configs", keep=("vae", "text_encoder", "text_encoder_2"))
    assert convert_single_file(file, configs, tmp_path / "out") == "FluxPipeline"
    kept = load_file(tmp_path / "out" / "transformer" / WEIGHTS)
    expected = torch.bfloat16 if dtype == torch.float8_e4m3fn else dtype
    for name, weight in tensors.items():
        assert kept[name].dtype == expected and torch.equal(kept[name], weight.to(dtype).to(expected)), name
    inspect_pipeline(tmp_path / "out")


def refusal(file, configs, out):
    with pytest.raises((ModelRefused, ConfigRefused)) as raised:
        convert_single_file(file, configs, out)
    said = str(raised.value)
    assert "\n" not in said and file.name in said and not (out / "model_index.json").exists()
    return said


def test_a_file_of_another_kind_is_one_sentence(flux_folder, sd_folder, sd_file, tmp_path):
    out = tmp_path / "out"
    whole = configs_of(flux_folder, tmp_path / "flux", keep=("vae", "text_encoder", "text_encoder_2"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(sd_file.read_bytes()[:-1000])
    assert "not a safetensors file, or it is damaged" in refusal(cut, sd_folder, out)
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS pointer" in refusal(pointer, sd_folder, out)
    for name in ("old.ckpt", "old.pt"):
        (tmp_path / name).write_bytes(b"pickle")
        assert "may run code when loaded; convert it" in refusal(tmp_path / name, sd_folder, out)
    assert "does not exist" in refusal(tmp_path / "absent.safetensors", sd_folder, out)
    noise = tmp_path / "noise.safetensors"
    save_file({"a": torch.zeros(2)}, noise)
    assert "none of the models that diffusers recognises" in refusal(noise, None, out)
    assert "lacks" in (said := refusal(noise, whole, out)) or "does not load" in said
    lora = tmp_path / "style.safetensors"
    save_file({"lora_unet_down.lora_down.weight": torch.zeros(2, 2)}, lora)
    assert "is a LoRA, not a generator; register its base, with --lora" in refusal(lora, sd_folder, out)
    scaled = tmp_path / "scaled.safetensors"
    save_file({"x.weight": torch.zeros(2).to(torch.float8_e4m3fn), "x.scale_weight": torch.ones(1)}, scaled)
    assert "8-bit floats with scales" in refusal(scaled, sd_folder, out)
    missing = tmp_path / "missing.safetensors"
    tensors = load_file(sd_file)
    tensors.pop("model.diffusion_model.middle_block.1.proj_in.weight")
    save_file(tensors, missing)
    said = refusal(missing, configs_of(sd_folder, tmp_path / "configs"), out)
    assert "lacks 1 tensors of its unet" in said or "does not load" in said
    assert "neither beside it nor in the cache" in refusal(sd_file, None, out)


@pytest.mark.skipif(importlib.util.find_spec("gguf") is not None, reason="gguf is installed")
def test_gguf_without_its_package_is_one_sentence(flux_folder, tmp_path):
    (tmp_path / "flux.gguf").write_bytes(b"GGUF")
    assert "pip install gguf" in refusal(tmp_path / "flux.gguf", flux_folder, tmp_path / "out")


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf")
def test_a_gguf_denoiser_is_read_by_its_own_quantizer(flux_folder, tmp_path):
    import gguf

    tensors = load_file(flux_folder / "transformer" / WEIGHTS)
    writer = gguf.GGUFWriter(tmp_path / "flux.gguf", "flux")
    for name, weight in tensors.items():
        quantised = weight.ndim == 2 and weight.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    configs = configs_of(flux_folder, tmp_path / "configs", keep=("vae", "text_encoder", "text_encoder_2"))
    convert_single_file(tmp_path / "flux.gguf", configs, tmp_path / "out")
    kept = load_file(tmp_path / "out" / "transformer" / WEIGHTS)
    for name, weight in tensors.items():
        assert torch.allclose(kept[name].float(), weight, atol=0.02 * float(weight.abs().max() + 1e-6)), name


def test_files_are_told_from_folders_and_repositories(tmp_path):
    for name in ("a.safetensors", "b.gguf", "c.ckpt"):
        assert is_single_file(tmp_path / name)
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder.safetensors", "owner/name", "owner/name@v1.2"):
        assert not is_single_file(tmp_path / name)
