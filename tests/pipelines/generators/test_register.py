"""Models from elsewhere become versions, once; what is none is refused."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import app
from dataengine.diagnosis.detector import NetworkDetector, load_detector, save_detector
from dataengine.errors import InputRefused, ModelRefused
from dataengine.quality.config import GuardConfig
from dataengine.treatment.config import LoraSettings, SamplingConfig, UsualSampling, WeightsConfig
from dataengine.treatment.families import selfcheck
from pipelines.config import GenerateConfig, TreatmentRun
from pipelines.detectors.register import register_detector
from pipelines.generators.draw import open_generator
from pipelines.generators.files import sampling_of
from pipelines.generators.register import register_generator, register_strength
from pipelines.generators.treatment import tuning_for
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services import preflight
from pipelines.services.detectors import retire_detector
from pipelines.services.generators import remove_generator
from storage.opening import create_workspace
from tests.dataengine.diagnosis.tiny import SEGFORMER
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.family_contract import disturb
from tests.dataengine.treatment.families.test_guided_diffusion import checkpoint
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


def test_a_single_file_is_registered_as_the_folder_it_becomes(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder = tiny.flux(tmp_path / "flux")
    file = tmp_path / "mine.safetensors"
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").rename(file)
    version = register_generator(workspace, str(file), configs=folder)
    assert version.name == "mine" and version.settings["pipeline"] == "FluxPipeline"
    file.rename(tmp_path / "moved.safetensors")
    context = Context(workspace, real_models("cpu"))
    assert open_generator(context, version).name == "flux", "the file is needed no more"
    assert register_generator(workspace, str(tmp_path / "moved.safetensors"), configs=folder) == version
    assert preflight.weights_check(workspace, version).verdict == "good"
    with pytest.raises(ModelRefused, match=r"old\.ckpt does not exist"):
        register_generator(workspace, str(tmp_path / "old.ckpt"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_weights_of_few_bits_are_said_to_be_written_out(tmp_path: Path, caplog, dtype) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder = tiny.flux(tmp_path / "flux")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(
        {key: value.to(dtype) for key, value in load_file(weights).items()}, tmp_path / "few.safetensors"
    )
    weights.unlink()
    register_generator(workspace, str(tmp_path / "few.safetensors"), configs=folder)
    said = [line for line in caplog.messages if "written out as bfloat16" in line]
    assert [line.startswith("few.safetensors: ") for line in said] == [True] * (dtype != torch.bfloat16)


def test_a_checkpoint_of_guided_diffusion_is_registered_with_its_flags(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    _, file = checkpoint(tmp_path / "theirs", num_res_blocks=1)
    version = register_generator(workspace, str(file))
    assert version.settings["pipeline"] == "DDPMPipeline" and version.name == "model"
    assert open_generator(Context(workspace, real_models("cpu")), version).size == (16, 16)
    (tmp_path / "theirs" / "flags.json").rename(tmp_path / "mine.json")
    assert register_generator(workspace, str(file), configs=tmp_path / "mine.json") == version
    with pytest.raises(ModelRefused, match="give its flags as a JSON file with --config"):
        register_generator(workspace, str(file))


def test_a_distilled_generator_is_known_by_its_index_or_by_command(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    folder, context = tiny.flux(tmp_path / "flux"), Context(workspace, real_models("cpu"))
    plain = register_generator(workspace, str(tiny.flux(tmp_path / "dev", guidance_embeds=True)))
    marked = register_generator(workspace, plain.location, distilled=True)
    schnell = register_generator(workspace, str(folder))
    denied = register_generator(workspace, str(folder), distilled=False)
    index = json.loads((folder / "model_index.json").read_text())
    klein = tmp_path / "klein"
    shutil.copytree(folder, klein)
    (klein / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    known = register_generator(workspace, str(klein))
    assert len({plain.id, marked.id, schnell.id, denied.id, known.id}) == 5
    assert denied.settings["sampling"]["steps"] == 28 and marked.settings["sampling"]["steps"] == 4
    few, many = (marked, schnell, known), (plain, denied)
    for version, distilled in [(each, True) for each in few] + [(each, False) for each in many]:
        assert open_generator(context, version).distilled is distilled
        plan = TreatmentRun(generator=version.id)
        said = [check.text for check in preflight.treatment_checks(workspace, plan, version, None)]
        assert any("distilled to few steps" in text for text in said) is distilled
        assert tuning_for(version, plan.tuning).guard.steps == (4 if distilled else None)
    chosen = plan.tuning.model_copy(update={"guard": GuardConfig(steps=9)})
    assert tuning_for(known, chosen) == chosen, "unless a number is chosen"


def test_weights_that_no_file_tells_apart_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turbo and base have the same files of settings; a class without distilled weights, or one whose files
    tell, needs no note."""
    create_workspace(tmp_path / "w").close()
    base, other = tiny.stable_diffusion_xl(tmp_path / "xl"), tiny.stable_diffusion(tmp_path / "sd")
    for folder, asked in {base: True, other: False}.items():
        assert app.main(["--workspace", str(tmp_path / "w"), "generators", "--add", str(folder)]) == 0
        assert ("if these are, add them with --distilled" in capsys.readouterr().out) is asked
    for flag, few in (("--distilled", 4), ("--no-distilled", 50)):
        words = ["generators", "--add", str(base), flag, "--json"]
        assert app.main(["--workspace", str(tmp_path / "w"), *words]) == 0
        told = json.loads(capsys.readouterr().out)["generators"]
        assert any(each["settings"]["sampling"]["steps"] == few for each in told)


def test_a_lora_of_the_base_weights_is_drawn_with_the_distilled_ones(tmp_path: Path) -> None:
    """Treat the base, and give its LoRA to the distilled model of the same class."""
    workspace = create_workspace(tmp_path / "workspace")
    context = Context(workspace, real_models("cpu"))
    base, few = tiny.flux(tmp_path / "base", guidance_embeds=True), tiny.flux(tmp_path / "schnell")
    family = open_generator(context, register_generator(workspace, str(base)))
    family.adapter.add(LoraSettings(rank=2), seed=0)
    disturb(family)
    family.adapter.save(tmp_path / "treated")
    schnell = register_generator(workspace, str(few))
    carrying = register_generator(workspace, str(few), lora=tmp_path / "treated")
    assert carrying.settings["distilled"] and carrying.settings["sampling"]["steps"] == 4
    sampling = sampling_of(carrying, GenerateConfig())
    plain, treated = (
        context.models.generate(open_generator(context, each), ["a dog"], [3], sampling).astype(int)
        for each in (schnell, carrying)
    )
    assert np.abs(plain - treated).mean() > 0


def test_a_call_is_checked_when_its_pipeline_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLINIC_CACHE", str(tmp_path / "cache"))
    workspace = create_workspace(tmp_path / "workspace")
    folder = save_tiny("StableDiffusion3Pipeline", tmp_path / "sd3")
    asked: list[object] = []
    monkeypatch.setattr(selfcheck, "check", asked.append)
    with monkeypatch.context() as full, caplog.at_level(logging.WARNING):
        full.setattr("dataengine.treatment.tuning.memory.free_memory", lambda device: (10, 10))
        register_generator(workspace, str(folder))
    assert not asked and "checked when it is first opened" in caplog.text
    for _ in range(2):
        register_generator(workspace, str(folder))
    assert len(asked) == 1, "once for the same files"

    def refuse(family: object) -> None:
        raise ModelRefused("last step: it changes nothing")

    monkeypatch.setattr(selfcheck, "check", refuse)
    settings = folder / "scheduler" / "scheduler_config.json"
    settings.write_text(settings.read_text() + " ")
    with pytest.raises(ModelRefused, match="last step"):
        register_generator(workspace, str(folder), "another")
    with workspace.catalog(read_only=True) as catalog:
        assert [each.name for each in catalog.generators.list()] == ["sd3"]


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
