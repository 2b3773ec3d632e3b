"""What every generator family keeps, whatever is behind it. Subclass, and give a `family` fixture."""

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings, OfflineConfig, SamplingConfig
from dataengine.treatment.families.diffusion import (
    add_noise,
    predicted_clean,
    predicted_noise,
    training_target,
)
from dataengine.treatment.objectives.offline import offline_loss
from dataengine.treatment.objectives.pixel import all_pixels
from dataengine.treatment.sampling.sampler import generate, sample, size_of
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

SETTINGS = SamplingConfig(steps=3, batch=4)


def draw(family, prompts=PROMPTS[:2], seeds=(5, 6), grad_last=0, settings=SETTINGS):
    """Images float N3HW of a chain, with gradient through its last steps."""
    latents = family.initial_latents(seeds, size_of(family, settings))
    clean = sample(family, family.encode_prompts(prompts), latents, settings, grad_last=grad_last)
    return family.decode(clean)


def disturb(family):
    """Make the LoRA matter: as attached, B is zero."""
    rng = torch.Generator().manual_seed(9)
    for weight in family.adapter.parameters().values():
        weight.data += 0.3 * torch.randn(weight.shape, generator=rng)


class DrawingContract:
    """What every family keeps, those included that carry no LoRA."""

    prompts: tuple[str, ...] = PROMPTS

    @pytest.fixture
    def family(self):
        """A freshly opened family without adapter."""
        raise NotImplementedError

    def test_same_seed_same_image_whatever_shares_the_batch(self, family):
        alone = generate(family, [self.prompts[1]], [11], SETTINGS)
        together = generate(family, self.prompts[:3], [10, 11, 12], SETTINGS)
        assert np.abs(alone[0].astype(int) - together[1]).max() <= 1
        assert np.array_equal(together, generate(family, self.prompts[:3], [10, 11, 12], SETTINGS))
        other = generate(family, [self.prompts[1]], [12], SETTINGS)
        assert np.abs(alone.astype(int) - other).max() > 1

    def test_images_are_uint8_of_the_asked_size(self, family):
        side = max(2 * family.multiple, 16)
        images = generate(family, PROMPTS[:1], [0], SamplingConfig(steps=2, height=side, width=2 * side))
        assert images.shape == (1, side, 2 * side, 3) and images.dtype == np.uint8
        with pytest.raises(ConfigRefused, match="multiples"):
            generate(family, PROMPTS[:1], [0], SamplingConfig(steps=1, height=side + 1))

    def test_clean_and_noise_are_what_the_levels_say(self, family):
        """x̂_0 and ε̂ of the true answer are x_0 and ε, and those of any answer recombine to x_t."""
        rng = torch.Generator().manual_seed(0)
        clean = family.initial_latents([1, 2], family.size)
        noise = torch.randn(clean.shape, generator=rng)
        alpha, sigma = family.levels(family.random_times(2, rng))
        latents = add_noise(clean, noise, alpha, sigma)
        answer = training_target(family.prediction, clean, noise)
        assert torch.allclose(predicted_noise(family.prediction, answer, latents, alpha), noise, atol=1e-4)
        recovered = predicted_clean(family.prediction, answer, latents, alpha, sigma)
        assert torch.allclose(add_noise(recovered, noise, alpha, sigma), latents, atol=1e-4)
        wrong = torch.randn(clean.shape, generator=rng)
        back = add_noise(
            predicted_clean(family.prediction, wrong, latents, alpha, sigma),
            predicted_noise(family.prediction, wrong, latents, alpha),
            alpha,
            sigma,
        )
        assert torch.allclose(back, latents, atol=1e-4)

    def test_the_chain_runs_from_noise_to_image(self, family):
        schedule = family.schedule(4, family.initial_latents([0], family.size))
        assert len(schedule) == 4
        assert schedule.sigma[0] > 0.9 and schedule.next_sigma[-1] < 0.1
        assert torch.equal(schedule.sigma[1:], schedule.next_sigma[:-1])
        assert (schedule.next_sigma < schedule.sigma).all()


class FamilyContract(DrawingContract):
    """Run on tiny pipelines, on the shipped families, and on the fake of `tests/fakes.py`."""

    @pytest.fixture
    def again(self, family):
        """The same family, opened anew; by default through the `family` fixture's own recipe."""
        raise NotImplementedError

    def test_an_added_adapter_changes_nothing_yet(self, family):
        before = draw(family)
        family.adapter.add(LoraSettings(rank=2), seed=1)
        assert torch.equal(before, draw(family))
        assert all(weight.dtype == torch.float32 for weight in family.adapter.parameters().values())

    def test_gradient_reaches_every_lora_matrix_and_nothing_else(self, family):
        family.adapter.add(LoraSettings(rank=2, targets="all"), seed=1)
        disturb(family)
        detector = ToyDetector()
        weights = {name: weight.clone() for name, weight in detector.named_parameters()}
        loss = all_pixels(detector.confidence(draw(family, grad_last=1)))
        loss = loss + offline_loss(
            family,
            family.encode_images(torch.rand(2, 3, *family.size)),
            family.encode_prompts(PROMPTS[:2]),
            OfflineConfig(),
            torch.Generator().manual_seed(0),
        )
        loss.backward()
        matrices = family.adapter.parameters()
        assert matrices
        for name, weight in matrices.items():
            assert weight.grad is not None and weight.grad.abs().max() > 0, f"no gradient reached {name}"
        mine = {id(weight) for weight in matrices.values()}
        for part, network in family.modules().items():
            for name, weight in network.named_parameters():
                assert id(weight) in mine or weight.grad is None, f"gradient leaked into {part}.{name}"
        for name, weight in detector.named_parameters():
            assert weight.grad is None and torch.equal(weight, weights[name])

    def test_only_the_last_steps_are_tracked(self, family):
        family.adapter.add(LoraSettings(rank=2), seed=1)
        assert not draw(family, grad_last=0).requires_grad
        assert draw(family, grad_last=1).requires_grad

    def test_checkpointing_gives_the_same_gradient(self, family):
        family.adapter.add(LoraSettings(rank=2), seed=1)
        disturb(family)
        matrices = family.adapter.parameters()

        def gradient():
            loss = draw(family, grad_last=2).square().mean()
            parts = torch.autograd.grad(loss, list(matrices.values()))
            return torch.cat([part.flatten() for part in parts])

        plain = gradient()
        family.use_checkpointing()
        # Image by image the VAE rounds otherwise, and threads add up in any order: mostly by 1e-4, rarely by
        # more than 2e-3. A step that is left out changes it by half and more.
        assert (plain - gradient()).norm() < 2e-2 * plain.norm()

    def test_without_the_adapter_the_base_draws(self, family):
        base = draw(family)
        with family.adapter.disabled():
            assert torch.equal(base, draw(family))
        family.adapter.add(LoraSettings(rank=2), seed=1)
        disturb(family)
        treated = draw(family)
        assert (treated - base).abs().max() > 1e-3
        with family.adapter.disabled():
            assert torch.equal(base, draw(family))
        assert torch.equal(treated, draw(family))
        assert all(weight.requires_grad for weight in family.adapter.parameters().values())

    def test_saved_and_loaded_draws_the_same(self, family, again, tmp_path):
        family.adapter.add(LoraSettings(rank=2, alpha=3.0, targets="all"), seed=1)
        disturb(family)
        family.adapter.save(tmp_path / "lora")
        again.adapter.load(tmp_path / "lora", trainable=True)
        assert torch.equal(draw(family), draw(again))
        mine, its = family.adapter.parameters(), again.adapter.parameters()
        assert list(mine) == list(its) and all(torch.equal(mine[name], its[name]) for name in mine)
        assert all(weight.requires_grad for weight in its.values())

    def test_a_second_adapter_is_refused(self, family):
        family.adapter.add(LoraSettings(rank=2), seed=1)
        with pytest.raises(ConfigRefused, match="already"):
            family.adapter.add(LoraSettings(rank=2), seed=1)

    def test_a_lora_that_is_none_is_refused(self, family, tmp_path):
        (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"no such thing")
        with pytest.raises(ModelRefused, match="safetensors"):
            family.adapter.load(tmp_path)
        with pytest.raises(ModelRefused, match="must hold"):
            family.adapter.load(tmp_path / "absent")


class PipelineContract(FamilyContract):
    """The same for families with a stock diffusers pipeline behind them, which must agree with it.

    Subclasses give `folder` and `stock_call`.
    """

    settings = SamplingConfig(steps=4)
    tolerance = 2e-5

    @pytest.fixture(scope="class")
    def folder(self):
        """Where the pipeline lies."""
        raise NotImplementedError

    @pytest.fixture
    def family(self, folder):
        from dataengine.treatment.families.loading import load_family

        return load_family(folder)

    @pytest.fixture
    def again(self, folder):
        from dataengine.treatment.families.loading import load_family

        return load_family(folder)

    @pytest.fixture
    def half(self, folder):
        """The same family in bfloat16."""
        from dataengine.treatment.families.loading import load_family

        return load_family(folder, dtype=torch.bfloat16)

    def stock_pipeline(self, folder):
        """The pipeline as diffusers itself opens it."""
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def load_lora(self, pipeline, folder):
        """As the pipeline's users do."""
        pipeline.load_lora_weights(str(folder))

    def stock_call(self, pipeline, family, **kwargs):
        """Images float N3HW of the stock pipeline's own call."""
        raise NotImplementedError

    def stock_images(self, pipeline, family):
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        return self.stock_call(
            pipeline,
            family,
            prompt=list(PROMPTS[:2]),
            generator=generators,
            num_inference_steps=self.settings.steps,
            output_type="pt",
            height=family.size[0],
            width=family.size[1],
        )

    def test_our_sampler_equals_the_stock_pipeline(self, family, folder):
        ours = draw(family, settings=self.settings)
        stock = self.stock_images(self.stock_pipeline(folder), family)
        assert ours.shape == stock.shape
        assert (ours - stock).abs().max() < self.tolerance

    def test_our_lora_opens_in_a_fresh_stock_pipeline(self, family, folder, tmp_path):
        family.adapter.add(LoraSettings(rank=2, alpha=3.0, targets="all"), seed=1)
        disturb(family)
        ours = draw(family, settings=self.settings)
        family.adapter.save(tmp_path)
        pipeline = self.stock_pipeline(folder)
        untreated = self.stock_images(pipeline, family)
        self.load_lora(pipeline, tmp_path)
        assert (ours - self.stock_images(pipeline, family)).abs().max() < self.tolerance
        assert (ours - untreated).abs().max() > 1e-3

    def test_the_vae_stays_in_float32(self, half):
        family = half
        kinds = {name: {w.dtype for w in network.parameters()} for name, network in family.modules().items()}
        assert kinds.pop("vae") == {torch.float32}
        family.adapter.add(LoraSettings(rank=2), seed=0)
        assert all(weight.dtype == torch.float32 for weight in family.adapter.parameters().values())
        images = draw(family, grad_last=1)
        images.mean().backward()
        assert images.dtype == torch.float32 and torch.isfinite(images).all()
        assert all(torch.bfloat16 in found for found in kinds.values())

    def test_everything_is_frozen_when_opened(self, family):
        assert not [
            n for net in family.modules().values() for n, w in net.named_parameters() if w.requires_grad
        ]

    def test_encode_and_decode_are_the_vaes(self, family):
        images = torch.rand(1, 3, *family.size)
        latents = family.encode_images(images)
        assert latents.shape == family.initial_latents([0], family.size).shape
        vae = family.modules()["vae"]
        expected = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
        assert torch.allclose(family.decode(latents), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)
