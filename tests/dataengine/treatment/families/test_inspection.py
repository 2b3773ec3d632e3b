"""What cannot be drawn with is refused from headers and shapes, by name; what can be is accepted."""

import json
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.errors import ModelRefused
from dataengine.treatment.families import ddim
from dataengine.treatment.families.inspection import inspect_pipeline
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.schedulers import check_scheduler
from tests.dataengine.treatment import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 1234\n"
WEIGHTS = "diffusion_pytorch_model"
KINDS = {
    "flux": tiny.flux,
    "sd": tiny.stable_diffusion,
    "xl": tiny.stable_diffusion_xl,
    "dit": tiny.dit,
    "ddpm": tiny.ddpm,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny pipeline of each kind, and Stable Diffusion in shards and in half precision."""
    from diffusers import StableDiffusionPipeline

    folders = {name: make(tmp_path_factory.mktemp(name)) for name, make in KINDS.items()}
    stock = StableDiffusionPipeline.from_pretrained(folders["sd"])
    for name, options in {
        "shards": {"max_shard_size": "30KB"},
        "fp16": {"variant": "fp16"},
        "fp16 shards": {"variant": "fp16", "max_shard_size": "30KB"},
    }.items():
        folders[name] = tmp_path_factory.mktemp("variant")
        stock.save_pretrained(folders[name], **options)
    return folders


@cache
def flux(folder):
    return load_family(folder)


@pytest.fixture
def copy(made, tmp_path):
    """A function that copies one of them, for a test to spoil."""
    return lambda name: Path(shutil.copytree(made[name], tmp_path / "copy"))


def edit(file, **changes):
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def unet_index(folder):
    return next((folder / "unet").glob("*.index*.json"))


@pytest.mark.parametrize("name", [*KINDS, "shards", "fp16", "fp16 shards"])
def test_what_loads_is_accepted(name, made):
    assert inspect_pipeline(made[name]).endswith("Pipeline")
    if "fp16" in name:
        whole, half = (load_family(made[each]).modules() for each in ("sd", name))
        for part, network in whole.items():
            for key, weight in half[part].state_dict().items():
                assert weight.dtype != torch.float16
                assert torch.allclose(weight, network.state_dict()[key], rtol=2e-3, atol=1e-6)


def half_in_part(folder):
    """Only the UNet is there in half precision alone."""
    weights = load_file(folder / "unet" / f"{WEIGHTS}.safetensors")
    halved = {key: value.half() for key, value in weights.items()}
    save_file(halved, folder / "unet" / f"{WEIGHTS}.fp16.safetensors", metadata={"format": "pt"})
    (folder / "unet" / f"{WEIGHTS}.safetensors").unlink()


def old_names(folder):
    """As transformers 4 saved its text encoders, with a buffer that nothing needs."""
    file = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{key}": value for key, value in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(weights, file, metadata={"format": "pt"})


def whole_file_too(folder):
    """An index with all its shards, and the file that they were made of."""
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    weights = {key: value for shard in shards for key, value in load_file(shard).items()}
    save_file(weights, folder / "unet" / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "change"), [("sd", half_in_part), ("sd", old_names), ("shards", whole_file_too)]
)
def test_what_others_save_otherwise_is_accepted(name, change, copy):
    folder = copy(name)
    change(folder)
    assert inspect_pipeline(folder) == "StableDiffusionPipeline"
    assert load_family(folder).pipeline.unet.dtype == torch.float32


DISCRETE = (
    *(
        "DDPM",
        "DDIMParallel",
        "PNDM",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "HeunDiscrete",
        "LCM",
        "TCD",
    ),
    *("LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DEISMultistep", "UniPCMultistep", "SASolver"),
)


@pytest.mark.parametrize("kind", DISCRETE)
def test_any_scheduler_is_taken_with_its_noise_schedule(kind, made, tmp_path):
    """The UNet learned the same noise, whatever class samples it elsewhere."""
    import diffusers

    file, name = Path(shutil.copytree(made["sd"] / "scheduler", tmp_path / "scheduler")), f"{kind}Scheduler"
    edit(file / "scheduler_config.json", _class_name=name, beta_end=0.02)
    check_scheduler(file, name, "epsilon")
    found = ddim.sampler(getattr(diffusers, name).from_pretrained(file), "this")
    betas = torch.linspace(0.00085**0.5, 0.02**0.5, 1000) ** 2
    assert torch.allclose(found.alphas_cumprod, torch.cumprod(1 - betas, 0), atol=1e-6)


def test_a_folder_with_another_sampler_opens(copy):
    folder = copy("sd")
    scheduler_named("UniPCMultistepScheduler")(folder)
    assert inspect_pipeline(folder) == "StableDiffusionPipeline" and load_family(folder)


@pytest.mark.parametrize(
    ("kind", "changes", "shift"),
    [
        ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, 3.0),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}, 3.0),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 2.0}, 2.0),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 2.0}, 2.0),
    ],
)
def test_flux_takes_every_scheduler_of_flow_matching(kind, changes, shift, made):
    import diffusers

    family = deepcopy(flux(made["flux"]))
    family.pipeline.scheduler = getattr(diffusers, kind)(**changes)
    sigma = type(family)(family.pipeline).schedule(4, family.initial_latents([0], family.size)).sigma
    even = torch.tensor([1.0, 0.75, 0.5, 0.25])
    assert torch.allclose(sigma, shift * even / (1 + (shift - 1) * even), atol=1e-6)


def scheduler_named(kind, **changes):
    def spoil(folder):
        edit(folder / "scheduler" / "scheduler_config.json", _class_name=kind, **changes)
        edit(folder / "model_index.json", scheduler=["diffusers", kind])

    return spoil


def config_of(part, **changes):
    return lambda folder: edit(folder / part / "config.json", **changes)


def other_unet(**changes):
    """A sound UNet of another config, as a folder for another task has it."""

    def spoil(folder):
        from diffusers import UNet2DConditionModel

        config = {**UNet2DConditionModel.load_config(folder / "unet"), **changes}
        UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")

    return spoil


def other_transformer(folder):
    from diffusers import FluxTransformer2DModel

    config = {**FluxTransformer2DModel.load_config(folder / "transformer"), "in_channels": 24}
    FluxTransformer2DModel.from_config(config).save_pretrained(folder / "transformer")


def without_last_shard_in_index(folder):
    content = json.loads(unet_index(folder).read_text())
    last = max(content["weight_map"].values())
    kept = {key: file for key, file in content["weight_map"].items() if file != last}
    unet_index(folder).write_text(json.dumps({**content, "weight_map": kept}))


def in_index(key, file):
    def spoil(folder):
        content = json.loads(unet_index(folder).read_text())
        content["weight_map"][key] = file or min(content["weight_map"].values())
        unet_index(folder).write_text(json.dumps(content))

    return spoil


def cut(folder):
    file = folder / "vae" / f"{WEIGHTS}.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def stale_index(folder):
    content = {"weight_map": {"conv_in.weight": f"{WEIGHTS}-00001-of-00002.safetensors"}}
    (folder / "unet" / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(content))


SPOILT = {
    "a shard is missing": ("shards", lambda f: max((f / "unet").glob("*-of-*")).unlink(), "which is absent"),
    "a half shard is missing": (
        "fp16 shards",
        lambda f: min((f / "unet").glob("*-of-*")).unlink(),
        "which is absent",
    ),
    "a stale index": ("sd", stale_index, "which is absent.*or remove the index"),
    "no index": ("shards", lambda f: unet_index(f).unlink(), "or its shards with their index"),
    "an index that is none": ("shards", lambda f: unet_index(f).write_text("[]"), "no index of weights"),
    "an index that lacks tensors": ("shards", without_last_shard_in_index, "missing tensors"),
    "an index of too many": ("shards", in_index("ghost.weight", None), "ghost.weight"),
    "an index to elsewhere": ("shards", in_index("ghost.weight", "../x.safetensors"), "not a file beside it"),
    "a pointer": (
        "sd",
        lambda f: (f / "unet" / f"{WEIGHTS}.safetensors").write_text(POINTER),
        "unet.*is a Git LFS pointer",
    ),
    "a pointer of a tokenizer": (
        "sd",
        lambda f: (f / "tokenizer" / "tokenizer.json").write_text(POINTER),
        "tokenizer.json is a Git LFS pointer",
    ),
    "a pointer in half": (
        "fp16",
        lambda f: (f / "vae" / f"{WEIGHTS}.fp16.safetensors").write_text(POINTER),
        "vae.*is a Git LFS pointer",
    ),
    "a truncated file": ("sd", cut, "vae.*is not a safetensors file, or it is damaged"),
    "another name": (
        "sd",
        lambda f: (f / "vae" / f"{WEIGHTS}.safetensors").rename(f / "vae" / "mine.safetensors"),
        "vae holds mine.safetensors; expected",
    ),
    "variants that differ": (
        "fp16",
        lambda f: (f / "vae" / f"{WEIGHTS}.fp16.safetensors").rename(
            f / "vae" / f"{WEIGHTS}.bf16.safetensors"
        ),
        "no variant of weights for all",
    ),
    "no network": ("sd", lambda f: shutil.rmtree(f / "vae"), r"vae holds no \.safetensors"),
    "no config": ("sd", lambda f: (f / "unet" / "config.json").unlink(), "unet does not load"),
    "no tokenizer": ("sd", lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer holds none of"),
    "no scheduler": ("sd", lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json is missing"),
    "another config": ("sd", config_of("unet", cross_attention_dim=48), "unet does not load"),
    "a shorter network": ("sd", config_of("vae", layers_per_block=2), "vae does not fit its config.json"),
    "inpainting": ("sd", other_unet(in_channels=9), "takes 9 and answers 4 channels"),
    "depth": ("sd", other_unet(in_channels=5), "takes 5 and answers 4 channels"),
    "inpainting of SDXL": ("xl", other_unet(in_channels=9), "takes 9 and answers 4 channels"),
    "a refiner's sizes": (
        "xl",
        other_unet(projection_class_embeddings_input_dim=5 * 8 + 32),
        "do not work together",
    ),
    "filling of FLUX": ("flux", other_transformer, "takes 24 channels"),
    "another text encoder": ("sd", other_unet(cross_attention_dim=48), "do not work together"),
    "guidance embedded": ("sd", other_unet(time_cond_proj_dim=8), "embeds its guidance"),
    "samples": ("dit", scheduler_named("DDIMScheduler", prediction_type="sample"), "predicts 'sample'"),
    "velocities in pixels": (
        "ddpm",
        scheduler_named("DDPMScheduler", prediction_type="v_prediction"),
        "v_prediction",
    ),
    "EDM": ("sd", scheduler_named("EDMEulerScheduler"), "noise schedule is not"),
    "flow in a UNet": ("sd", scheduler_named("FlowMatchEulerDiscreteScheduler"), "noise schedule is not"),
    "flow by a solver": (
        "xl",
        scheduler_named("UniPCMultistepScheduler", use_flow_sigmas=True),
        "is not the",
    ),
    "no flow in FLUX": ("flux", scheduler_named("DDIMScheduler"), "no schedule of flow matching"),
    "times inverted": (
        "flux",
        scheduler_named("FlowMatchEulerDiscreteScheduler", invert_sigmas=True),
        "inverts its sigmas",
    ),
    "an unknown scheduler": ("sd", scheduler_named("NoSuchScheduler"), "diffusers does not have"),
}


@pytest.mark.parametrize("kind", list(SPOILT))
def test_what_cannot_be_drawn_with_is_refused_in_one_sentence(kind, copy):
    name, spoil, message = SPOILT[kind]
    folder = copy(name)
    spoil(folder)
    with pytest.raises(ModelRefused, match=message) as refused:
        inspect_pipeline(folder)
    assert "\n" not in str(refused.value)
