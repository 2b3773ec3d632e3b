"""The contract of `StockFamily`: that of every family, and what has once failed in silence for some class."""

import copy

import pytest
import torch

from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.sampling.sampler import sample
from tests.dataengine.treatment.families.family_contract import PipelineContract, disturb, draw
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny, tiny_pipeline
from tests.dataengine.treatment.tiny import PROMPTS, SIDE

GUIDANCE = 3.0
CALLS: dict[str, dict] = {
    "QwenImagePipeline": {"negative_prompt": [" ", " "], "true_cfg_scale": GUIDANCE},
    "SanaPipeline": {"use_resolution_binning": False},
    "PixArtSigmaPipeline": {"use_resolution_binning": False},
}
"""What else the stock call is given, for the image that people expect of it."""


def family_of(kind: str, dtype: torch.dtype = torch.float32) -> StockFamily:
    """The tiny pipeline of a kind behind `StockFamily`, frozen, drawing small images by default."""
    pipeline = tiny_pipeline(kind)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).to(torch.float32 if name == "vae" else dtype)
    family = StockFamily(pipeline)
    family.size = (SIDE, SIDE)
    return family


class StockContract(PipelineContract):
    """Subclasses give `kind`, a name of `tiny_pipelines.TINY`, as a fixture of class scope."""

    settings = SamplingConfig(steps=3, guidance=GUIDANCE)

    @pytest.fixture(scope="class")
    def folder(self, kind, tmp_path_factory):
        return save_tiny(kind, tmp_path_factory.mktemp("stock"))

    @pytest.fixture(scope="class")
    def opened(self, kind):
        """Never changed by a test: what it has learned of its pipeline is learned once."""
        family = family_of(kind)
        family.encode_prompts(PROMPTS[:1])
        family.initial_latents([0], family.size)
        return family

    @pytest.fixture
    def family(self, opened):
        return copy.deepcopy(opened)

    @pytest.fixture
    def again(self, opened):
        return copy.deepcopy(opened)

    @pytest.fixture
    def half(self, kind):
        return family_of(kind, torch.bfloat16)

    def stock_pipeline(self, folder):
        from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

        pipeline = super().stock_pipeline(folder)
        settings = pipeline.scheduler.config
        if settings.get("use_flow_sigmas"):
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=settings["flow_shift"])
        elif "beta_start" in settings:
            pipeline.scheduler = DDIMScheduler.from_config(settings, clip_sample=False)
        pipeline.default_sample_size = SIDE / pipeline.vae_scale_factor  # HiDream draws no other area
        return pipeline

    def stock_call(self, pipeline, family, **kwargs):
        extra = {"guidance_scale": GUIDANCE} | CALLS.get(type(pipeline).__name__, {})
        if "true_cfg_scale" in extra:
            del extra["guidance_scale"]
        return pipeline(**extra, **kwargs).images

    def test_every_weight_that_matters_gets_a_gradient(self, family):
        """A weight without gradient must be one that no image depends on."""
        family.denoiser.requires_grad_(True)
        settings = SamplingConfig(steps=2, guidance=GUIDANCE)
        draw(family, grad_last=1, settings=settings).square().mean().backward()
        idle = [weight for weight in family.denoiser.parameters() if weight.grad is None or not weight.grad.any()]
        family.denoiser.requires_grad_(False)
        assert sum(map(torch.numel, idle)) < 0.25 * sum(map(torch.numel, family.denoiser.parameters()))
        before = draw(family, settings=settings)
        for weight in idle:
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, draw(family, settings=settings))

    def test_the_gradient_of_one_step_is_the_slope(self, family):
        """Against central differences along it, over a chain of a single step."""
        family.adapter.add(LoraSettings(rank=2), seed=1)
        disturb(family)
        matrices = list(family.adapter.parameters().values())
        settings = SamplingConfig(steps=1, guidance=GUIDANCE)

        def value(grad_last=0):
            return draw(family, grad_last=grad_last, settings=settings).double().square().mean()

        parts = torch.autograd.grad(value(grad_last=1), matrices)
        length = torch.cat([part.flatten() for part in parts]).norm()
        assert length > 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, part in zip(matrices, parts, strict=True):
                    weight += sign * 1e-2 * part / length
                sides.append(value())
                for weight, part in zip(matrices, parts, strict=True):
                    weight -= sign * 1e-2 * part / length
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(length, rel=0.05)

    def test_the_last_step_alone_moves_the_image(self, family):
        family.adapter.add(LoraSettings(rank=2), seed=1)
        before = draw(family, settings=self.settings)
        matrices = family.adapter.parameters()
        draw(family, grad_last=1, settings=self.settings).square().mean().backward()
        with torch.no_grad():
            for weight in matrices.values():
                weight -= weight.grad / (weight.grad.norm() + 1e-12)
        assert (draw(family, settings=self.settings) - before).abs().max() > 1e-3

    def test_an_answer_does_not_depend_on_the_rest_of_the_batch(self, family):
        """Prompts of different lengths at different times."""
        prompts = [PROMPTS[0], PROMPTS[2], "a", PROMPTS[3]]
        latents = family.initial_latents(range(4), family.size)
        times = family.random_times(4, torch.Generator().manual_seed(1))
        conditioning = family.encode_prompts(prompts)
        together = family.predict(latents, times, conditioning, GUIDANCE)
        for row, prompt in enumerate(prompts):
            one = slice(row, row + 1)
            alone = family.predict(latents[one], times[one], family.encode_prompts([prompt]), GUIDANCE)
            assert (alone - together[one]).abs().max() < 1e-4 * together.abs().max()

    def test_it_answers_as_within_its_own_chain(self, family, folder, kind):
        """Bit for bit, at the latents and times of the stock pipeline's own call."""
        pipeline = self.stock_pipeline(folder)
        step, chain = pipeline.scheduler.step, []

        def watch(output, time, latents, *args, **kwargs):
            chain.append((latents, time, output))
            return step(output, time, latents, *args, **kwargs)

        pipeline.scheduler.step = watch
        self.stock_images(pipeline, family)
        layout = family.layout(family.size)
        conditioning = family.encode_prompts(PROMPTS[:2])
        schedule = family.schedule(self.settings.steps, family.initial_latents([0], family.size))
        assert len(chain) == self.settings.steps
        for number, (latents, _, output) in enumerate(chain):
            times = schedule.times[number].expand(2)
            answer = family.predict(layout.outside(latents), times, conditioning, GUIDANCE)
            if family.velocity:
                continue  # which is answered as noise
            assert torch.equal(layout.inside(answer), output), f"step {number + 1}"

    def test_encode_and_decode_are_the_vaes(self, family):
        images = torch.rand(1, 3, *family.size)
        latents = family.encode_images(images)
        noise = family.initial_latents([0], family.size)
        assert latents.shape == noise.shape and latents.dtype == torch.float32
        vae, given = family.modules()["vae"], images * 2 - 1
        found = vae.encode(given[:, :, None] if "temperal_downsample" in vae.config else given)
        posterior = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latent
        expected = vae.decode(posterior).sample.reshape(images.shape)
        assert (family.decode(latents) - (expected / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-5

    def test_inversion_of_its_latents(self, family):
        """Ours are the pipeline's, in another order and nothing else."""
        noise = family.initial_latents([0, 1], family.size)
        assert noise.ndim == 4 and 0.8 < noise.std() < 1.2
        layout = family.layout(family.size)
        assert torch.equal(layout.outside(layout.inside(noise)), noise)

    def test_the_chain_ends_at_an_image_of_the_vae(self, family):
        latents = family.initial_latents([3], family.size)
        clean = sample(family, family.encode_prompts(PROMPTS[:1]), latents, self.settings)
        image = family.decode(clean)
        assert image.shape == (1, 3, *family.size) and 0 <= image.min() and image.max() <= 1
        assert image.std() > 0.02
