"""The contract on tiny pipelines of every kind that we open."""

import pytest

from dataengine.treatment.config import SamplingConfig
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.family_contract import PipelineContract


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
        from tests.dataengine.treatment.family_contract import draw

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
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        return pipeline

    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=self.settings.guidance, **kwargs).images
