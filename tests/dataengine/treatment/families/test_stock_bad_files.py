"""Folders of classes that open by their own call: half-downloaded ones, variants, LoRAs and sizes that do not
fit. Each is refused in one sentence that names the file, whether it is inspected or opened."""

import shutil
from pathlib import Path

import pytest
import torch

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.inspection import inspect_pipeline
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.own_call.quiet import quiet
from dataengine.treatment.families.selfcheck import check
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment.families.family_contract import draw
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny, tiny_pipeline
from tests.dataengine.treatment.tiny import PROMPTS, SIDE

KINDS = (
    "StableDiffusion3Pipeline",
    pytest.param("QwenImagePipeline", marks=pytest.mark.generators),
    pytest.param("PixArtSigmaPipeline", marks=pytest.mark.generators),
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp("saved") / "generator")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "generator")


def cut(folder):
    file = folder / "transformer" / WEIGHTS
    file.write_bytes(file.read_bytes()[: -(file.stat().st_size // 2)])


def half_a_shard(folder):
    """As a download leaves it that ended after the first of two shards."""
    (folder / "transformer" / WEIGHTS).unlink()
    (folder / "transformer" / f"{WEIGHTS}.index.json").write_text(
        '{"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}'
    )


def incomplete(folder):
    """As huggingface_hub names a file while it comes."""
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / f"{WEIGHTS}.incomplete")


def variants_apart(folder):
    (folder / "transformer" / WEIGHTS).rename(folder / "transformer" / WEIGHTS.replace(".", ".fp16.", 1))
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / WEIGHTS.replace(".", ".bf16.", 1))


SPOILT = {
    "cut short": (cut, r"transformer.*is not a safetensors file, or it is damaged"),
    "a shard is missing": (half_a_shard, r"names diffusion_pytorch_model-00001-of-00002.*is absent"),
    "still coming": (incomplete, r"vae holds no \.safetensors file; download it completely"),
    "a pointer": (
        lambda folder: (folder / "transformer" / WEIGHTS).write_text(POINTER),
        "is a Git LFS pointer",
    ),
    "no text encoder": (
        lambda folder: shutil.rmtree(folder / "text_encoder"),
        r"text_encoder holds no \.safetensors",
    ),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer holds none of"),
    "no config": (
        lambda folder: (folder / "transformer" / "config.json").unlink(),
        r"transformer.*does not load|does not load",
    ),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "scheduler"),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "expected a diffusers pipeline"),
    "variants apart": (variants_apart, "no variant of weights for all its networks"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_folder_that_is_not_whole_is_refused(folder, spoilt):
    spoil, message = SPOILT[spoilt]
    spoil(folder)
    for opened in (inspect_pipeline, load_family):
        with pytest.raises(ModelRefused, match=message) as refused:
            opened(folder)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_a_variant_opens_as_the_weights_without_one(folder):
    plain = draw(load_family(folder))
    for part in folder.iterdir():
        for file in part.glob("*.safetensors") if part.is_dir() else ():
            file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert inspect_pipeline(folder) and torch.equal(draw(load_family(folder)), plain)


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("StableDiffusion3Pipeline", "PixArtSigmaPipeline"),
        pytest.param("PixArtSigmaPipeline", "AuraFlowPipeline", marks=pytest.mark.generators),
        pytest.param("ChromaPipeline", "StableDiffusion3Pipeline", marks=pytest.mark.generators),
        pytest.param("Flux2KleinPipeline", "QwenImagePipeline", marks=pytest.mark.generators),
        pytest.param("Krea2Pipeline", "Lumina2Pipeline", marks=pytest.mark.generators),
    ],
)
def test_a_lora_of_another_class_is_refused(kind, of, tmp_path):
    """By the names and shapes of its layers, all that a file tells: FLUX's fit Chroma, made of it."""
    other, family = (StockFamily(tiny_pipeline(name)) for name in (of, kind))
    other.adapter.add(LoraSettings(rank=2, targets="all"), seed=0)
    other.adapter.save(tmp_path / "lora")
    with pytest.raises(ModelRefused, match=r"lora.*(does not fit|another generator|no LoRA of this)"):
        family.adapter.load(tmp_path / "lora")


@pytest.mark.parametrize(
    "kind",
    ["StableDiffusion3Pipeline", pytest.param("Flux2KleinPipeline", marks=pytest.mark.generators)],
)
def test_a_size_that_it_does_not_draw_is_refused(kind):
    family = StockFamily(tiny_pipeline(kind))
    family.frozen()
    odd = SamplingConfig(steps=2, height=family.multiple * 3 + 1, width=SIDE)
    with pytest.raises(ConfigRefused, match=f"use multiples of {family.multiple}"):
        generate(family, PROMPTS[:1], [0], odd)
    with pytest.raises((ConfigRefused, ValueError)):
        family.initial_latents([0], (family.multiple * 3 + 1, SIDE))


@pytest.mark.generators
@pytest.mark.parametrize("kind", ["PixArtSigmaPipeline", "SanaPipeline"])
def test_sizes_are_not_binned(kind):
    """These calls would draw at the nearest of their usual sizes, and resize."""
    family = StockFamily(tiny_pipeline(kind))
    family.frozen()
    wide = SamplingConfig(steps=2, height=family.multiple * 4, width=family.multiple * 7)
    assert generate(family, PROMPTS[:1], [0], wide).shape == (1, wide.height, wide.width, 3)


@pytest.mark.generators
@pytest.mark.parametrize("kind", ["QwenImagePipeline", "Flux2KleinPipeline", "PixArtSigmaPipeline"])
def test_prompts_beyond_the_limit_are_named(kind):
    family = StockFamily(tiny_pipeline(kind))
    long = "cat " * 3000
    assert family.truncated(["a cat", long]) == [long] and family.truncated([]) == []


@pytest.mark.generators
@pytest.mark.parametrize("kind", ["PixArtSigmaPipeline", "StableDiffusionPipeline"])
def test_a_last_step_that_changes_nothing_is_refused(kind):
    """With K = 1 nothing would be learned."""
    from diffusers import DDIMScheduler

    pipeline = tiny_pipeline(kind)
    pipeline.scheduler = DDIMScheduler(steps_offset=0, set_alpha_to_one=False)
    with quiet(), pytest.raises(ModelRefused, match="last step: its scheduler ends with a step"):
        check(StockFamily(pipeline))


def test_a_class_of_ours_is_refused_by_name(tmp_path: Path) -> None:
    """A pipeline of several stages, and one whose steps depend on those before."""
    for name in ("StableCascadeCombinedPipeline", "HunyuanImagePipeline", "DiTPipelineOfMine"):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{name}"}}')
        with pytest.raises(ModelRefused, match=name):
            inspect_pipeline(tmp_path)
