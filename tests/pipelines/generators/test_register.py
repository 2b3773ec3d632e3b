"""Models from elsewhere become versions, once; what is none is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dataengine.diagnosis.detector import NetworkDetector, load_detector, save_detector
from dataengine.errors import InputRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, SamplingConfig, UsualSampling, WeightsConfig
from pipelines.config import GenerateConfig
from pipelines.detectors.register import register_detector
from pipelines.generators.draw import open_generator
from pipelines.generators.files import sampling_of
from pipelines.generators.register import register_generator, register_strength
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services.detectors import retire_detector
from pipelines.services.generators import remove_generator
from storage.opening import create_workspace
from tests.dataengine.diagnosis.tiny import SEGFORMER
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny


def test_a_foreign_detector_is_registered_once_and_the_first_is_champion(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    for seed in (0, 1):
        save_detector(NetworkDetector.fresh(SEGFORMER, seed).eval(), tmp_path / str(seed))
    first = register_detector(workspace, tmp_path / "0")
    assert (first.role, first.licence, first.name) == ("champion", "Apache-2.0", "tiny segformer")
    assert register_detector(workspace, tmp_path / "0", name="again") == first
    second = register_detector(workspace, tmp_path / "1", name="other", licence="bought")
    assert (second.role, second.licence, second.name) == ("candidate", "bought", "other")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    kept = load_detector(workspace.checkpoints.fetch(second.checkpoint)).find_artifacts(image)
    assert np.array_equal(kept, load_detector(tmp_path / "1").find_artifacts(image))


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    with pytest.raises(InputRefused, match="does not exist"):
        register_detector(workspace, tmp_path / "absent")
    (tmp_path / "noise.bin").write_bytes(b"noise")
    with pytest.raises(ModelRefused):
        register_detector(workspace, tmp_path / "noise.bin")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.detectors.list() == []


def test_a_generator_is_loaded_as_it_was_registered(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder = tiny.flux(tmp_path)
    plain = register_generator(workspace, str(folder))
    assert (plain.name, plain.location) == (folder.name, str(folder.resolve()))
    assert register_generator(workspace, str(folder), name="again") == plain
    halved = register_generator(workspace, str(folder), "half", "MIT", WeightsConfig(precision="bfloat16"))
    assert (halved.name, halved.licence) == ("half", "MIT")
    context = Context(workspace, real_models("cpu"))
    for version, expected in ((plain, torch.float32), (halved, torch.bfloat16)):
        modules = open_generator(context, version).modules()
        assert {weight.dtype for weight in modules["transformer"].parameters()} == {expected}
        assert {weight.dtype for weight in modules["vae"].parameters()} == {torch.float32}


def test_a_generator_may_carry_a_lora_that_treatments_go_on_with(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder, context = tiny.flux(tmp_path), Context(workspace, real_models("cpu"))
    plain = register_generator(workspace, str(folder))
    family = open_generator(context, plain)
    family.adapter.add(LoraSettings(rank=2), seed=0)
    family.adapter.save(tmp_path / "dog")
    carrying = register_generator(workspace, str(folder), lora=tmp_path / "dog")
    assert carrying.id != plain.id and carrying.name == f"{folder.name} with dog"
    assert open_generator(context, carrying).adapter.parameters().keys() == family.adapter.parameters().keys()
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(ModelRefused, match="is not a safetensors file"):
        register_generator(workspace, str(folder), lora=tmp_path / "noise.safetensors")
    with pytest.raises(ModelRefused, match="contains no LoRA weights"):
        register_generator(
            workspace, str(folder), lora=folder / "vae" / "diffusion_pytorch_model.safetensors"
        )
    with pytest.raises(InputRefused, match="does not exist; give a LoRA"):
        register_generator(workspace, str(folder), lora=tmp_path / "cat")


def test_what_could_not_be_drawn_with_is_not_registered(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder = tiny.stable_diffusion(tmp_path / "sd")
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelRefused, match="no LoRA of this generator's unet"):
        register_generator(workspace, str(folder), lora=tmp_path / "other.safetensors")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelRefused, match="Git LFS pointer"):
        register_generator(workspace, str(folder))
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.generators.list() == []


def test_what_was_removed_comes_back_by_registering_it_again(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    generator = register_generator(workspace, str(tiny.ddpm(tmp_path / "ddpm")))
    for seed in (0, 1):
        save_detector(NetworkDetector.fresh(SEGFORMER, seed).eval(), tmp_path / str(seed))
        detector = register_detector(workspace, tmp_path / str(seed))
    assert remove_generator(workspace, generator.id, "root", "too old").removed is not None
    assert retire_detector(workspace, detector.id, "root").removed is not None
    again = register_generator(workspace, str(tmp_path / "ddpm"))
    assert again == generator and register_detector(workspace, tmp_path / "1") == detector


def test_one_lora_at_two_strengths_is_two_generators(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder, context = tiny.flux(tmp_path), Context(workspace, real_models("cpu"))
    plain = register_generator(workspace, str(folder))
    family = open_generator(context, plain)
    family.adapter.add(LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for weight in family.adapter.parameters().values():
            weight.normal_(generator=torch.Generator().manual_seed(weight.numel()))
    family.adapter.save(tmp_path / "dog")
    carrying = register_generator(workspace, str(folder), lora=tmp_path / "dog")
    half = register_strength(workspace, carrying.id, 0.5)
    assert half == register_strength(workspace, carrying.id, 0.5) and half.name.endswith(", at 0.5")
    versions = [plain, register_strength(workspace, carrying.id, 0.0), half, carrying]
    drawn = [
        context.models.generate(open_generator(context, one), ["a dog"], [3], SamplingConfig(steps=1)).astype(
            int
        )
        for one in versions
    ]
    assert (drawn[0] == drawn[1]).all(), "at 0 it is the base"
    assert np.abs(drawn[2] - drawn[0]).mean() > 0 and np.abs(drawn[3] - drawn[2]).mean() > 0
    with pytest.raises(InputRefused, match="has no LoRA"):
        register_strength(workspace, plain.id, 0.5)
    with pytest.raises(InputRefused, match="must be between 0"):
        register_strength(workspace, carrying.id, 3.0)


def test_what_is_no_generator_is_refused(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    with pytest.raises(ModelRefused, match="model_index"):
        register_generator(workspace, str(tmp_path))
    (folder := tiny.flux(tmp_path)).joinpath("hook.py").write_text("print()")
    with pytest.raises(ModelRefused, match="program code"):
        register_generator(workspace, str(folder))
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.generators.list() == []


def usual_of(workspace, folder: Path, **stated) -> SamplingConfig:
    """What a round of a recipe that says nothing draws the newly registered generator with."""
    version = register_generator(workspace, str(folder), usual=UsualSampling(**stated))
    return sampling_of(version, GenerateConfig())


def test_each_generator_is_drawn_with_its_own_steps_guidance_and_size(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    schnell = usual_of(workspace, tiny.flux(tmp_path / "schnell"))
    assert (schnell.steps, schnell.guidance, schnell.height) == (4, 0.0, None)
    dev = usual_of(workspace, tiny.flux(tmp_path / "dev", guidance_embeds=True))
    assert (dev.steps, dev.guidance) == (28, 3.5)
    large = usual_of(workspace, tiny.stable_diffusion_xl(tmp_path / "xl"))
    assert (large.steps, large.guidance) == (50, 5.0)
    klein = save_tiny("Flux2KleinPipeline", tmp_path / "klein")
    assert (usual_of(workspace, klein).steps, usual_of(workspace, klein).guidance) == (50, 4.0)
    index = json.loads((klein / "model_index.json").read_text())
    (klein / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    few = usual_of(workspace, klein, height=64, width=32)
    assert (few.steps, few.guidance, few.height, few.width) == (4, 1.0, 64, 32)
    qwen = usual_of(workspace, save_tiny("QwenImagePipeline", tmp_path / "qwen"), steps=8)
    assert (qwen.steps, qwen.guidance) == (8, 4.0)
    pixels = usual_of(workspace, tiny.ddpm(tmp_path / "ddpm"))
    assert pixels == SamplingConfig()


def test_a_recipe_that_gives_steps_is_drawn_with_them(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    version = register_generator(workspace, str(tiny.flux(tmp_path)), usual=UsualSampling(steps=9))
    given = GenerateConfig.model_validate({"sampling": {"steps": 3}})
    assert sampling_of(version, given).steps == 3
    stored = GenerateConfig.model_validate(given.model_dump(mode="json"))
    assert sampling_of(version, stored).steps == 3
    said = GenerateConfig.model_validate({"sampling": {"batch": 2}})
    assert (sampling_of(version, said).steps, sampling_of(version, said).batch) == (9, 2)
    both = GenerateConfig.model_validate({"sampling": {"steps": 3}, "own_sampling": True})
    assert sampling_of(version, both).steps == 9
