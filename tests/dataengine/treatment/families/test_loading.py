"""What is loaded, and above all what is not."""

import json
import shutil

import pytest
import torch

from dataengine.errors import ModelRefused
from dataengine.treatment.families.loading import check_pipeline, download_pipeline, load_family


@pytest.fixture
def flux(flux_folder, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(flux_folder, tmp_path / "flux")


def edit_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    index.update(changes)
    (folder / "model_index.json").write_text(json.dumps(index))


def test_the_family_is_found_by_the_pipelines_class(flux_folder, sd_folder):
    assert check_pipeline(flux_folder) == "FluxPipeline" and load_family(flux_folder).name == "flux"
    assert (
        check_pipeline(sd_folder) == "StableDiffusionPipeline"
        and load_family(sd_folder).name == "stable-diffusion"
    )


def test_code_is_refused_by_name(flux):
    (flux / "transformer" / "modeling.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelRefused, match=r"modeling\.py is program code"):
        load_family(flux)


def test_a_pickle_is_refused_by_name_even_beside_safetensors(flux):
    torch.save({"weight": torch.zeros(1)}, flux / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"diffusion_pytorch_model\.bin may run code"):
        load_family(flux)


def test_parts_that_we_do_not_load_may_hold_what_they_like(sd_folder, tmp_path):
    folder = shutil.copytree(sd_folder, tmp_path / "sd")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"never opened")
    edit_index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert load_family(folder).pipeline.safety_checker is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "StableDiffusionXLInpaintPipeline"}, "names the pipeline class"),
        ({"_class_name": ["custom_pipeline", "Mine"]}, "names the pipeline class"),
        ({"transformer": ["modeling", "MyTransformer"]}, "expected FluxTransformer2DModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "expected AutoencoderKL"),
        ({"text_encoder_2": [None, None]}, "expected T5EncoderModel"),
        ({"scheduler": None}, "expected any Scheduler"),
    ],
)
def test_unknown_classes_are_refused(flux, changes, message):
    edit_index(flux, **changes)
    with pytest.raises(ModelRefused, match=message):
        load_family(flux)


def test_missing_weights_are_refused_by_name(flux):
    (flux / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"transformer holds no \.safetensors"):
        load_family(flux)


def test_truncated_weights_are_refused(flux):
    file = flux / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelRefused, match="damaged"):
        load_family(flux)


def test_no_index_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"model_index\.json is missing"):
        load_family(tmp_path)


def test_a_place_that_is_nowhere_is_refused():
    with pytest.raises(ModelRefused, match="neither a local folder"):
        load_family("nobody/nothing-of-the-kind")
    with pytest.raises(ModelRefused, match="neither a local folder"):
        download_pipeline("/no/such/folder")


def test_the_hub_is_asked_for_parts_of_known_type_only(flux_folder, monkeypatch):
    """The index comes first; snapshots never ask for pickles, code or the single-file duplicate at the
    top."""
    import fnmatch

    import huggingface_hub

    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, name, revision: str(flux_folder / name)
    )

    def snapshot(repo, revision, allow_patterns, ignore_patterns):
        asked.update(repo=repo, revision=revision, allow=allow_patterns, ignore=ignore_patterns)
        return str(flux_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_family("owner/name@abc").name == "flux"
    assert asked["repo"] == "owner/name" and asked["revision"] == "abc"

    def taken(name):
        allowed = any(fnmatch.fnmatch(name, pattern) for pattern in asked["allow"])
        return allowed and not any(fnmatch.fnmatch(name, pattern) for pattern in asked["ignore"])

    assert taken("model_index.json") and taken("vae/config.json") and taken("tokenizer_2/spiece.model")
    assert taken("transformer/diffusion_pytorch_model-00001-of-00003.safetensors")
    assert not taken("flux1-schnell.safetensors") and not taken("vae/diffusion_pytorch_model.bin")
    assert not taken("transformer/modeling.py") and not taken("vae/diffusion_pytorch_model.fp16.safetensors")


def test_a_lora_for_another_base_is_refused(flux_folder, sd_folder, tmp_path):
    from dataengine.treatment.config import LoraSettings
    from tests.dataengine.treatment import tiny

    flux = load_family(flux_folder)
    flux.adapter.add(LoraSettings(rank=2), seed=0)
    flux.adapter.save(tmp_path / "lora")
    with pytest.raises(ModelRefused, match="no LoRA of this generator's unet"):
        load_family(sd_folder, lora=tmp_path / "lora")
    other = tiny.flux(tmp_path / "wider", heads=4)
    with pytest.raises(ModelRefused, match=r"does not fit|another generator"):
        load_family(other, lora=tmp_path / "lora")
    assert load_family(flux_folder, lora=tmp_path / "lora").adapter.parameters()
