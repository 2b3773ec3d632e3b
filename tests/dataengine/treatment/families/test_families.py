"""The contract on tiny pipelines of every kind that we open."""

import json

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, SamplingConfig, UNetConfig
from dataengine.treatment.families import ddim
from dataengine.treatment.families.family import Refinable
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.unconditional import new_unet_family
from dataengine.treatment.sampling.sampler import generate
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.families.family_contract import DrawingContract, PipelineContract, draw


class FluxContract(PipelineContract):
    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=family.guidance, max_sequence_length=family.tokens, **kwargs).images


class TestSchnell(FluxContract):
    """No guidance, no shift."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.flux(tmp_path_factory.mktemp("schnell"))


class TestDev(FluxContract):
    """Embedded guidance and a shift that depends on the size."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.flux(tmp_path_factory.mktemp("dev"), guidance_embeds=True, dynamic_shift=True)

    def test_guidance_is_embedded(self, family):
        from tests.dataengine.treatment.families.family_contract import draw

        strong = draw(family, settings=SamplingConfig(steps=2, guidance=9.0))
        assert (draw(family, settings=SamplingConfig(steps=2)) - strong).abs().max() > 1e-4


class TestStableDiffusion(PipelineContract):
    """Noise prediction, DDIM, classifier-free guidance."""

    settings = SamplingConfig(steps=4, guidance=4.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.stable_diffusion(tmp_path_factory.mktemp("sd"))

    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=self.settings.guidance, **kwargs).images


class TestStableDiffusionWithoutGuidance(TestStableDiffusion):
    """Another beta schedule, clipped x̂_0, a last step to exactly clean latents."""

    settings = SamplingConfig(steps=7, guidance=1.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.stable_diffusion(
            tmp_path_factory.mktemp("sd1"), beta_schedule="linear", clip_sample=True, set_alpha_to_one=True
        )


class TestStableDiffusionXL(PipelineContract):
    """Two text encoders, sizes told to the UNet; the folder names Euler, both sides sample with DDIM."""

    settings = SamplingConfig(steps=4, guidance=5.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.stable_diffusion_xl(tmp_path_factory.mktemp("sdxl"))

    def stock_pipeline(self, folder):
        from diffusers import DDIMScheduler

        pipeline = super().stock_pipeline(folder)
        # The folder does not say whether x̂_0 is clipped; where it does not, it is not.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        return pipeline

    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=self.settings.guidance, **kwargs).images


SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "LMSDiscreteScheduler",
)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("said", [None, True, False])
def test_the_clean_image_is_clipped_only_if_the_folder_says_so(tmp_path, name, said):
    """Whatever scheduler the folder names, and also after our sampler was saved in its place."""
    import diffusers

    stored = {"_class_name": name, "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    stored |= {} if said is None else {"clip_sample": said, "clip_sample_range": 1.5}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(stored))
    sampler = ddim.sampler(getattr(diffusers, name).from_pretrained(tmp_path), "this model")
    expected = 1.5 if said else None
    assert ddim.schedule(sampler, 4, torch.device("cpu")).clip == expected
    sampler.save_pretrained(tmp_path / "saved")
    again = ddim.sampler(diffusers.DDIMScheduler.from_pretrained(tmp_path / "saved"), "this model")
    assert ddim.schedule(again, 4, torch.device("cpu")).clip == expected
    assert torch.equal(again.alphas_cumprod, sampler.alphas_cumprod)


def test_a_new_network_of_pixels_clips(tmp_path):
    family = new_unet_family(UNetConfig(channels=(8, 16)), 0)
    family.pipeline.save_pretrained(tmp_path)
    for one in (family, load_family(tmp_path)):
        assert one.schedule(4, torch.zeros(1, 3, 32, 32)).clip == 1.0


class WithoutLora(DrawingContract):
    """Families that are drawn with and refined, and whose pipelines load no LoRA."""

    settings = SamplingConfig(steps=4)

    @pytest.fixture
    def family(self, folder):
        return load_family(folder)

    def test_loras_are_refused_and_it_can_be_refined(self, family, folder):
        assert isinstance(family, Refinable) and not family.adapter.parameters()
        with pytest.raises(ConfigRefused, match="takes no LoRA"):
            family.adapter.add(LoraSettings(), seed=0)
        with pytest.raises(ConfigRefused, match="clinic refine"):
            load_family(folder, lora=folder)


class TestDDPM(WithoutLora):
    """Pixels, no prompt; the folder names DDPM, both sides sample with DDIM."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.ddpm(tmp_path_factory.mktemp("ddpm"))

    def test_our_sampler_equals_the_stock_pipeline(self, family, folder):
        from diffusers import DDIMPipeline

        stock = DDIMPipeline.from_pretrained(folder, use_safetensors=True)
        stock.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        theirs = stock(batch_size=2, generator=generators, num_inference_steps=4, output_type="np").images
        ours = draw(family, settings=self.settings).permute(0, 2, 3, 1).detach().numpy()
        assert np.abs(ours - theirs).max() < 2e-5
        stock.save_pretrained(folder / "as ddim")
        assert load_family(folder / "as ddim").name == "unconditional"

    def test_what_draws_no_colours_is_refused(self, folder, tmp_path):
        import shutil

        from diffusers import UNet2DModel

        grey = tmp_path / "grey"
        shutil.copytree(folder, grey)
        unet = UNet2DModel.from_pretrained(folder / "unet")
        UNet2DModel.from_config({**unet.config, "in_channels": 1, "out_channels": 1}).save_pretrained(
            grey / "unet"
        )
        with pytest.raises(ModelRefused, match="RGB"):
            load_family(grey)


class TestImprovedDDPM(WithoutLora):
    """The answer's second half is its variance, which DDIM leaves alone."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.ddpm(tmp_path_factory.mktemp("iddpm"), learned=True)

    def test_a_new_one_learns_its_variance_over_the_cosine(self):
        config = UNetConfig(channels=(8, 16), variance="learned", betas="squaredcos_cap_v2", attention=1)
        family, again = new_unet_family(config, seed=3), new_unet_family(config, seed=3)
        assert family.denoiser.config.out_channels == 6 and family.size == (32, 32)
        assert family.denoiser.config.down_block_types == ("DownBlock2D", "AttnDownBlock2D")
        assert family.pipeline.scheduler.config.variance_type == "learned_range"
        assert torch.equal(family.denoiser.conv_in.weight, again.denoiser.conv_in.weight)
        assert torch.equal(draw(family), draw(again))

    def test_the_variance_is_part_of_the_answer_alone(self, family):
        noise, times = family.initial_latents([1], family.size), torch.tensor([500])
        told = family.encode_prompts([""])
        assert family.raw_output(noise, times, told).shape == (1, 6, 32, 32)
        assert family.predict(noise, times, told, 1.0).shape == (1, 3, 32, 32)


class TestLDM(WithoutLora):
    """Latents of a VQ autoencoder, no prompt."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.ldm(tmp_path_factory.mktemp("ldm"))

    def test_our_sampler_equals_the_stock_pipeline(self, family, folder):
        from diffusers import LDMPipeline

        stock = LDMPipeline.from_pretrained(folder, use_safetensors=True)
        stock.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        theirs = stock(batch_size=2, generator=generators, num_inference_steps=4, output_type="np").images
        ours = draw(family, settings=self.settings).permute(0, 2, 3, 1).detach().numpy()
        assert np.abs(ours - theirs).max() < 2e-5
        assert family.size == (32, 32) and family.multiple == 4

    def test_images_pass_through_the_codebook_with_their_gradient(self, family):
        images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        latents = family.encode_images(images).requires_grad_()
        decoded = family.decode(latents)
        stock = family.pipeline.vqvae(images * 2 - 1).sample
        assert torch.allclose(decoded, (stock / 2 + 0.5).clamp(0, 1), atol=1e-5)
        decoded.square().mean().backward()
        assert latents.grad.abs().max() > 0

    def test_latents_of_other_channels_are_refused(self, folder, tmp_path):
        import shutil

        from diffusers import UNet2DModel

        other = tmp_path / "other"
        shutil.copytree(folder, other)
        unet = UNet2DModel.from_pretrained(folder / "unet")
        UNet2DModel.from_config({**unet.config, "in_channels": 4, "out_channels": 4}).save_pretrained(
            other / "unet"
        )
        with pytest.raises(ModelRefused, match=r"takes 4 and answers 4 channels, and latents .* have 3"):
            load_family(other)


class TestDiT(WithoutLora):
    """Latents, classes for prompts, guidance from the class that stands for none."""

    prompts = ("goldfish", "7", "", "0")
    settings = SamplingConfig(steps=4, guidance=4.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tiny.dit(tmp_path_factory.mktemp("dit"))

    def test_images_are_uint8_of_the_asked_size(self, family):
        assert generate(family, ["1"], [0], SamplingConfig(steps=1)).shape == (1, 32, 32, 3)
        with pytest.raises(ConfigRefused, match="square images only"):
            generate(family, ["1"], [0], SamplingConfig(steps=1, height=32, width=64))

    def test_our_sampler_equals_the_stock_pipeline(self, family, folder):
        from diffusers import DiTPipeline

        stock = DiTPipeline.from_pretrained(folder, use_safetensors=True)
        stock.set_progress_bar_config(disable=True)
        for guidance in (1.0, 4.0):
            theirs = stock(
                class_labels=[1, 7],
                generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
                guidance_scale=guidance,
                num_inference_steps=4,
                output_type="np",
            ).images
            settings = self.settings.model_copy(update={"guidance": guidance})
            ours = draw(family, prompts=["goldfish", "7"], settings=settings)
            assert np.abs(ours.permute(0, 2, 3, 1).detach().numpy() - theirs).max() < 2e-5

    def test_what_is_no_class_is_refused(self, family):
        with pytest.raises(ConfigRefused, match=r"no class 'a hand'.*below 1000.*goldfish"):
            family.encode_prompts(["a hand"])
        with pytest.raises(ConfigRefused, match="1000"):
            family.encode_prompts(["1000"])
