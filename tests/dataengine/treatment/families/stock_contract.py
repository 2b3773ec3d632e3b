"""The contract of `StockFamily`: that of every family, and what has once failed in silence for some class."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch

from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.sampling.sampler import sample
from tests.dataengine.treatment.families.family_contract import PipelineContract, draw
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny
from tests.dataengine.treatment.tiny import PROMPTS, SIDE

GUIDANCE = 3.0
CALLS: dict[str, dict] = {
    "QwenImagePipeline": {"negative_prompt": [" ", " "], "true_cfg_scale": GUIDANCE},
    "SanaPipeline": {"use_resolution_binning": False},
    "PixArtSigmaPipeline": {"use_resolution_binning": False},
    "PixArtAlphaPipeline": {"use_resolution_binning": False},
    "HunyuanDiTPipeline": {"use_resolution_binning": False},
    "LongCatImagePipeline": {"enable_prompt_rewrite": False, "negative_prompt": ["", ""]},
    "ErnieImagePipeline": {"use_pe": False},
    "FluxKontextPipeline": {"image": None, "_auto_resize": False, "max_area": SIDE * SIDE},
}
"""What else the stock call is given, for the image that people expect of it."""


def remembered(encode: Callable[[Sequence[str]], Conditioning]) -> Callable[[Sequence[str]], Conditioning]:
    """The same function, which encodes each list of prompts once."""
    kept: dict[tuple[str, ...], Conditioning] = {}

    def encoded(prompts: Sequence[str]) -> Conditioning:
        key = tuple(prompts)
        if key not in kept:
            kept[key] = encode(prompts)
        return kept[key]

    return encoded


class StockContract(PipelineContract):
    """Subclasses give `kind`, a name of `tiny_pipelines.TINY`, as a fixture of class scope."""

    settings = SamplingConfig(steps=3, guidance=GUIDANCE)
    tolerance = 5e-5

    @pytest.fixture(scope="class")
    def folder(self, kind, tmp_path_factory):
        return save_tiny(kind, tmp_path_factory.mktemp("stock"))

    @pytest.fixture(scope="class")
    def opened(self, folder):
        """Never changed by a test: what it learns of its pipeline is learned once, and prompts that two tests
        name are encoded once."""
        family = load_family(folder, by_its_call=True)
        family.size = (SIDE, SIDE)
        family.encode_prompts = remembered(family.encode_prompts)
        family.initial_latents([0], family.size)
        return family

    @pytest.fixture
    def family(self, opened):
        return copy.deepcopy(opened)

    @pytest.fixture
    def again(self, opened):
        return copy.deepcopy(opened)

    @pytest.fixture
    def half(self, folder):
        family = StockFamily.open(folder, torch.bfloat16)
        family.frozen()
        family.size = (SIDE, SIDE)
        return family

    def stock_pipeline(self, folder):
        from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

        pipeline = super().stock_pipeline(folder)
        settings = pipeline.scheduler.config
        if settings.get("use_flow_sigmas"):
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=settings["flow_shift"])
        elif "beta_start" in settings:
            spacing = {"linspace": "leading"}.get(settings.timestep_spacing, settings.timestep_spacing)
            pipeline.scheduler = DDIMScheduler.from_config(
                settings, clip_sample=False, timestep_spacing=spacing
            )
        pipeline.default_sample_size = SIDE / pipeline.vae_scale_factor  # HiDream draws no other area
        return pipeline

    def load_lora(self, pipeline, folder):
        """By peft alone where diffusers has no loader for the class."""
        if hasattr(pipeline, "load_lora_weights"):
            return super().load_lora(pipeline, folder)
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
        from safetensors.torch import load_file

        held = load_file(folder / "pytorch_lora_weights.safetensors")
        matrices = {key.removeprefix("transformer."): matrix for key, matrix in held.items()}
        layers = sorted({key.partition(".lora_")[0] for key in matrices})
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3.0, target_modules=layers), pipeline.transformer)
        assert not set_peft_model_state_dict(pipeline.transformer, matrices).unexpected_keys

    def stock_call(self, pipeline, family, **kwargs):
        extra = {"guidance_scale": GUIDANCE} | CALLS.get(type(pipeline).__name__, {})
        if "true_cfg_scale" in extra:
            del extra["guidance_scale"]
        if family.tokens:
            extra["max_sequence_length"] = family.tokens
        return pipeline(**extra, **kwargs).images

    def test_every_weight_that_matters_gets_a_gradient(self, family):
        """A weight without gradient must be one that no image depends on."""
        family.denoiser.requires_grad_(True)
        settings = SamplingConfig(steps=2, guidance=GUIDANCE)
        draw(family, grad_last=1, settings=settings).square().mean().backward()
        weights = list(family.denoiser.parameters())
        idle = [weight for weight in weights if weight.grad is None or not weight.grad.any()]
        family.denoiser.requires_grad_(False)
        assert sum(map(torch.numel, idle)) < 0.25 * sum(map(torch.numel, weights))
        before = draw(family, settings=settings)
        for weight in idle:
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, draw(family, settings=settings))

    def test_the_gradient_is_the_slope(self, family):
        """Against central differences along it, through all of a short chain."""
        family.adapter.add(LoraSettings(rank=2), seed=1)
        matrices = list(family.adapter.parameters().values())
        settings = SamplingConfig(steps=2, guidance=GUIDANCE)

        def value(grad_last=0):
            return draw(family, grad_last=grad_last, settings=settings).double().square().mean()

        parts = torch.autograd.grad(value(grad_last=2), matrices)
        length = float(torch.cat([part.flatten() for part in parts]).norm())
        distance = 1e-3
        before = [weight.detach().clone() for weight in matrices]
        values = []
        for sign in (1, -1):
            for weight, start, part in zip(matrices, before, parts, strict=True):
                weight.data = start + sign * distance * part / length
            values.append(float(value()))
        assert (values[0] - values[1]) / (2 * distance) == pytest.approx(length, rel=0.05)

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

    def test_it_answers_as_within_its_own_chain(self, family, folder):
        """Bit for bit, but where prompts are asked one by one since their lengths differ."""
        conditioning = family.encode_prompts(PROMPTS[:2])
        allowed = 1e-5 if len(set(family._recording.alike(conditioning))) > 1 else 0.0
        if family.velocity:
            allowed = 1e-5  # which is answered as noise
        assert max(self.differences(family, folder)) <= allowed

    def differences(self, family, folder) -> list[float]:
        """Of our answer from that of the stock pipeline's own chain, at each of its steps."""
        pipeline = self.stock_pipeline(folder)
        step, chain = pipeline.scheduler.step, []

        def watch(output, time, latents, *args, **kwargs):
            chain.append((latents, output))
            return step(output, time, latents, *args, **kwargs)

        pipeline.scheduler.step = watch
        self.stock_images(pipeline, family)
        layout, conditioning = family.layout(family.size), family.encode_prompts(PROMPTS[:2])
        schedule = family.schedule(self.settings.steps, family.initial_latents([0], family.size))
        assert len(chain) == len(schedule)
        found = []
        for number, (latents, output) in enumerate(chain):
            ours, times = layout.outside(latents), schedule.times[number].expand(2)
            expected = layout.outside(output)
            if family.velocity:
                expected = schedule.alpha[number] * expected + schedule.sigma[number] * ours
            answer = family.predict(ours, times, conditioning, GUIDANCE)
            found.append(float((answer - expected).abs().max()))
        return found

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
        assert image.shape == (1, 3, *family.size) and image.min() >= 0 and image.max() <= 1
        assert image.std() > 0.02
