"""The contract on the generators that the clinic ships."""

import pytest

from dataengine.clinic.parts import materialise
from dataengine.treatment.config import SamplingConfig
from tests.dataengine.treatment.families.family_contract import PipelineContract
from tests.dataengine.treatment.families.test_families import FluxContract


class TestClinicFlux(FluxContract):
    """Trained weights: outputs are larger than those of random ones, and so is their rounding."""

    tolerance = 2e-4

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return materialise("flux", tmp_path_factory.mktemp("clinic") / "flux")


class TestClinicStableDiffusion(PipelineContract):
    """The same for noise prediction with guidance."""

    tolerance = 2e-4
    settings = SamplingConfig(steps=4, guidance=3.0)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return materialise("stable_diffusion", tmp_path_factory.mktemp("clinic") / "stable_diffusion")

    def stock_call(self, pipeline, family, **kwargs):
        return pipeline(guidance_scale=self.settings.guidance, **kwargs).images
