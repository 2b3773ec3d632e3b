"""Opening any pipeline by its own call: what is checked, what is refused, and what stays the caller's."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, OfflineConfig, SamplingConfig, TreatmentConfig
from dataengine.treatment.families import selfcheck
from dataengine.treatment.families.components import stock_class
from dataengine.treatment.families.inspection import inspect_pipeline
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.own_call.hooked import Halt, call
from dataengine.treatment.families.own_call.quiet import quiet
from dataengine.treatment.families.rows import ROWS
from dataengine.treatment.families.selfcheck import check
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.sampling.sampler import sample
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.family_contract import draw
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny, tiny_pipeline

SD3 = "StableDiffusion3Pipeline"


def fresh(name=SD3):
    family = StockFamily(tiny_pipeline(name))
    family.frozen()
    return family


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return save_tiny(SD3, tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def folder(kept, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(kept, tmp_path / "sd3")


def edit_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


def depends_on_the_past(family):
    """A denoiser that remembers how often it was asked."""
    forward, asked = family.denoiser.forward, []

    def remembering(*args, **kwargs):
        asked.append(1)
        (output,) = forward(*args, **kwargs)
        return (output * len(asked),)

    family.denoiser.forward = remembering


def makes_pictures_of_its_own(family):
    processor = family.pipeline.image_processor
    given = processor.postprocess
    processor.postprocess = lambda images, **kwargs: 1 - given(images, **kwargs)


def bends_its_latents(family):
    """A path to the VAE that gives no numbers."""
    family.pipeline.vae.register_to_config(shift_factor=torch.nan)


def encodes_otherwise_without_guidance(family):
    encode = family.pipeline.encode_prompt

    def encode_prompt(*args, **kwargs):
        sequence, negative, *pooled = encode(*args, **kwargs)
        return (sequence if kwargs["do_classifier_free_guidance"] else -sequence, negative, *pooled)

    family.pipeline.encode_prompt = encode_prompt


def guides_always(family):
    family.training_guidance = 3.0


def has_other_layers(family):
    family.row = replace(family.row, attention=r".*\.query")


def fails(family):
    family.pipeline.check_inputs = lambda *args, **kwargs: 1 / 0


SPOILT = {
    "steps:": depends_on_the_past,
    "decoding:": makes_pictures_of_its_own,
    "the path from latents": bends_its_latents,
    "prompts:": encodes_otherwise_without_guidance,
    "guidance:": guides_always,
    "LoRA layers:": has_other_layers,
    "which failed": fails,
}


@pytest.mark.parametrize("message", list(SPOILT))
def test_each_check_refuses_what_it_names(message):
    family = fresh()
    SPOILT[message](family)
    with quiet(), pytest.raises(ModelRefused, match=message) as refused:
        check(family)
    assert SD3 in str(refused.value) and "rows.py" in str(refused.value)


def test_a_scheduler_that_ends_with_a_step_that_changes_nothing_is_refused():
    from diffusers import DDIMScheduler

    pipeline = tiny_pipeline("PixArtSigmaPipeline")
    pipeline.scheduler = DDIMScheduler(steps_offset=0, set_alpha_to_one=False)
    with quiet(), pytest.raises(ModelRefused, match="last step: its scheduler ends with a step"):
        check(StockFamily(pipeline))


def test_a_call_is_left_as_it_was():
    pipeline = tiny_pipeline(SD3)

    def leave(original, *args, **kwargs):
        raise Halt("left")

    names = ("encode_prompt", "prepare_latents", "set_timesteps", "forward", "step", "decode")
    given = {"prompt": "a", "num_inference_steps": 1, "height": 32, "width": 32}
    for name in names:
        assert call(pipeline, "transformer", {name: leave}, given) == "left"
    for owner in (pipeline, pipeline.scheduler, pipeline.transformer, pipeline.vae):
        assert not vars(owner).keys() & set(names)


def test_a_verdict_is_kept_for_the_same_files(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CLINIC_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(selfcheck, "check", asked.append)
    load_family(folder)
    load_family(folder)
    assert len(asked) == 1
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text() + " ")
    load_family(folder)
    assert len(asked) == 2


def test_a_refusal_is_not_kept(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CLINIC_CACHE", str(tmp_path / "cache"))

    def refuse(family):
        raise ModelRefused("no")

    monkeypatch.setattr(selfcheck, "check", refuse)
    for _ in range(2):
        with pytest.raises(ModelRefused):
            load_family(folder)


def test_a_class_without_a_row_opens_and_says_so(tmp_path, caplog):
    """PixArt-α, of the parts of PixArt-Σ; its call would draw at another size by default."""
    folder = save_tiny("PixArtSigmaPipeline", tmp_path / "alpha")
    name = "PixArtAlphaPipeline"
    assert name not in ROWS
    edit_index(folder, _class_name=name)
    with caplog.at_level(logging.WARNING, "dataengine"):
        family = load_family(folder)
    assert any("opened by its own call, not tested" in each.message for each in caplog.records)
    assert type(family.pipeline).__name__ == name and inspect_pipeline(folder) == name
    assert draw(family).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("make", [tiny.flux, tiny.stable_diffusion, tiny.stable_diffusion_xl])
def test_the_families_of_our_own_agree_with_their_pipelines_calls(make, tmp_path):
    ours, its = (load_family(make(tmp_path), by_its_call=call) for call in (False, True))
    assert isinstance(its, StockFamily) and not isinstance(ours, StockFamily)
    its.size = ours.size
    settings = SamplingConfig(steps=3, guidance=4.0)
    assert torch.allclose(draw(ours, settings=settings), draw(its, settings=settings), atol=1e-5)
    gradients = []
    for family in (ours, its):
        family.adapter.add(LoraSettings(rank=2), seed=1)
        for weight in family.adapter.parameters().values():
            weight.data += 0.1
        image = draw(family, grad_last=1, settings=settings)
        gradients.append(
            torch.autograd.grad(image.square().mean(), list(family.adapter.parameters().values()))
        )
    for one, other in zip(*gradients, strict=True):
        # Rounding differs between processors: 1.2e-4 of these tiny gradients was seen.
        assert (one - other).norm() < 5e-4 * one.norm() + 1e-9


def test_v_prediction_is_drawn_as_by_diffusers(tmp_path):
    """Stable Diffusion 2: our own family answers noise, so it opens by its call."""
    from diffusers import StableDiffusionPipeline

    folder = tiny.stable_diffusion(tmp_path, prediction_type="v_prediction")
    family = load_family(folder)
    assert isinstance(family, StockFamily) and family.prediction == "epsilon"
    settings = SamplingConfig(steps=4, guidance=3.0)
    stock = StableDiffusionPipeline.from_pretrained(folder)(
        list(tiny.PROMPTS[:2]),
        guidance_scale=3.0,
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="pt",
    ).images
    assert (draw(family, settings=settings) - stock).abs().max() < 1e-4


def test_times_may_differ_within_a_batch():
    family = fresh()
    latents = family.initial_latents([1, 2, 3], (32, 32))
    conditioning = family.encode_prompts(tiny.PROMPTS[:3])
    times = torch.tensor([0.9, 0.3, 0.9])
    together = family.predict(latents, times, conditioning, 1.0)
    for row in range(3):
        alone = family.predict(latents[[row]], times[[row]], conditioning.rows([row]), 1.0)
        assert torch.allclose(together[[row]], alone, atol=1e-5)


def test_text_encoders_may_be_elsewhere():
    """After the prompts are encoded they are not asked again."""
    family = fresh()
    conditioning = family.encode_prompts(tiny.PROMPTS[:1])
    latents = family.initial_latents([1], (32, 32))
    for name, network in family.modules().items():
        if name.startswith("text_encoder"):
            network.to("meta")
    sampled = sample(family, conditioning, latents, SamplingConfig(steps=2))
    assert torch.isfinite(family.decode(sampled)).all()


def test_prompts_beyond_the_limit_are_named():
    family = fresh()
    long = "cat " * 300
    assert family.truncated(["a cat", long]) == [long] and family.truncated([]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "StableDiffusion3ControlNetPipeline"}, "needs more than text"),
        ({"_class_name": "StableDiffusion3InpaintPipeline"}, "needs more than text"),
        ({"_class_name": "QwenImageEditPipeline"}, "needs more than text"),
        ({"_class_name": "StableDiffusion3PAGPipeline"}, "name StableDiffusion3Pipeline in"),
        ({"_class_name": "HunyuanVideoPipeline"}, "needs more than text"),
        ({"_class_name": "StableAudioPipeline"}, "needs more than text"),
        ({"_class_name": "ConsistencyModelPipeline"}, "takes no prompt"),
        ({"_class_name": "AltDiffusionPipeline"}, "deprecated"),
        ({"_class_name": "NextYearsPipeline"}, "no pipeline class of the installed diffusers"),
        ({"_class_name": "os.system"}, "no pipeline class of the installed diffusers"),
        ({"_class_name": "AutoencoderKL"}, "no pipeline class of the installed diffusers"),
        ({"_class_name": ["pipeline", "Mine"]}, "no class of diffusers"),
        ({"transformer": ["transformer_mine", "Mine"]}, "of diffusers or transformers"),
        ({"transformer": ["diffusers", "FluxTransformer2DModel"]}, "expected SD3Transformer2DModel"),
        ({"transformer": ["diffusers", "NextYearsModel"]}, "does not have"),
        ({"vae": ["os", "system"]}, "of diffusers or transformers"),
        ({"text_encoder_2": [None, None]}, "as text_encoder_2; expected CLIPTextModelWithProjection"),
        ({"text_encoder_2": None}, "as text_encoder_2; expected CLIPTextModelWithProjection"),
        ({"tokenizer_3": ["transformers", "T5EncoderModel"]}, "as tokenizer_3"),
        ({"scheduler": ["transformers", "T5EncoderModel"]}, "as scheduler"),
    ],
)
def test_what_must_not_be_loaded_is_refused_in_one_sentence(folder, changes, message):
    edit_index(folder, **changes)
    for opened in (load_family, inspect_pipeline):
        with pytest.raises(ModelRefused, match=message):
            opened(folder)


def test_code_pickles_and_missing_weights_are_refused(folder):
    (folder / "transformer" / "model.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelRefused, match=r"model\.py is program code"):
        load_family(folder)
    (folder / "transformer" / "model.py").unlink()
    (folder / "text_encoder_3" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin may run code"):
        load_family(folder)
    (folder / "text_encoder_3" / "pytorch_model.bin").unlink()
    (folder / "text_encoder_3" / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"text_encoder_3 holds no \.safetensors"):
        load_family(folder)


def test_optional_parts_are_left_out(folder):
    """Their files are never opened, whatever they hold."""
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder" / "pytorch_model.bin").write_bytes(b"never opened")
    edit_index(folder, image_encoder=["transformers", "SiglipVisionModel"])
    assert load_family(folder).pipeline.image_encoder is None


def test_a_lora_of_another_class_is_refused(folder, tmp_path):
    other = fresh("SanaPipeline")
    other.adapter.add(LoraSettings(rank=2), seed=0)
    other.adapter.save(tmp_path / "lora")
    with pytest.raises(ModelRefused, match=r"does not fit|another generator"):
        load_family(folder, lora=tmp_path / "lora")


def test_a_size_without_noise_levels_or_without_latents_is_refused():
    family = fresh("PixArtSigmaPipeline")
    family.pipeline.vae = None
    with pytest.raises(ModelRefused, match="no VAE"):
        StockFamily(family.pipeline)
    with pytest.raises(ConfigRefused, match="choose more steps"):
        qwen = fresh("QwenImagePipeline")
        qwen.schedule(1, qwen.initial_latents([0], (32, 32)))


@pytest.mark.parametrize("name", ["FluxPipeline", "ZImagePipeline", "AuraFlowPipeline"])
def test_text_to_image_classes_are_found(name):
    assert stock_class(name).__name__ == name


def test_a_treatment_trains_its_lora(kept, tmp_path):
    """From a folder to a LoRA that a fresh stock pipeline loads, and that draws the same there."""
    from diffusers import StableDiffusion3Pipeline

    config = TreatmentConfig(
        updates=2,
        batch=2,
        grad_steps=1,
        learning_rate=1e-2,
        offline=OfflineConfig(gamma=0.001),
        sampling=SamplingConfig(steps=2, batch=4),
        lora=LoraSettings(rank=2, targets="all"),
        offload=("text",),
    )
    family = load_family(kept)
    before = draw(family, settings=config.sampling)
    clean = np.random.default_rng(0).integers(0, 256, size=(2, 32, 32, 3), dtype=np.uint8)
    prompts = list(tiny.PROMPTS[:2])
    treat(config, family, tiny.ToyDetector(), prompts, clean, prompts, None, tmp_path)
    after = draw(family, settings=config.sampling)
    assert (after - before).abs().max() > 1e-3
    family.adapter.save(tmp_path / "lora")
    stock = StableDiffusion3Pipeline.from_pretrained(kept)
    stock.load_lora_weights(tmp_path / "lora")
    images = stock(
        prompts,
        num_inference_steps=2,
        max_sequence_length=family.tokens,
        guidance_scale=family.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="pt",
        height=32,
        width=32,
    ).images
    assert (images - after).abs().max() < 1e-5
    assert "StableDiffusion3Pipeline.load_lora_weights" in family.adapter.reader
