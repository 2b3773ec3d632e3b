"""Objectives against hand-computed values, and the treatment gradient against finite differences."""

import numpy as np
import pytest
import torch

from dataengine.treatment.config import OfflineConfig, PixelConfig, RegionConfig, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, shift_times
from dataengine.treatment.objectives.batch import confidence_maps
from dataengine.treatment.objectives.offline import offline_loss
from dataengine.treatment.objectives.pixel import all_pixels, pixel_loss
from dataengine.treatment.objectives.region import region_constraint, region_mask
from dataengine.treatment.sampling.sampler import sample
from dataengine.treatment.tuning.estimate import Ledger
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.objectives.toys import Linear

CONFIDENCE = torch.tensor([[[0.0, 0.2], [0.4, 0.8]], [[0.05, 0.05], [0.0, 0.3]]])


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("all", 1.8 / 8),
        ("maximum", (0.8 + 0.3) / 2),
        ("above", ((0.2 + 0.4 + 0.8) / 3 + 0.3) / 2),
        ("soft", (0.04 + 0.16 + 0.64 + 0.0025 * 2 + 0.09) / 1.8),
    ],
)
def test_pixel_losses(pixels, expected):
    assert pixel_loss(CONFIDENCE, PixelConfig(pixels=pixels)).item() == pytest.approx(expected, abs=1e-6)


def test_images_that_are_judged_apart_keep_memory_and_gradient():
    detector, gradients, kept = tiny.ToyDetector(), {}, {}
    for apart in (False, True):
        images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with Ledger() as ledger:
            confidence = confidence_maps(detector, images, apart)
            kept[apart] = ledger.alive
            confidence.mean().backward()
        gradients[apart] = images.grad
        assert confidence.shape == (6, 16, 16)
    assert torch.allclose(gradients[False], gradients[True], rtol=1e-4, atol=1e-9)
    assert kept[True] < kept[False] / 2


def test_which_pixels_learn():
    gradients = {}
    for pixels in ("all", "maximum", "above", "soft"):
        confidence = CONFIDENCE.clone().requires_grad_()
        pixel_loss(confidence, PixelConfig(pixels=pixels)).backward()
        gradients[pixels] = confidence.grad
    assert torch.allclose(gradients["all"], torch.full_like(CONFIDENCE, 1 / 8))
    assert gradients["maximum"].nonzero().tolist() == [[0, 1, 1], [1, 1, 1]]
    assert torch.equal(gradients["above"] > 0, CONFIDENCE > 0.1)
    assert torch.allclose(gradients["soft"], CONFIDENCE / 1.8, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_above_are_averaged_in_each_image_before_the_images(seed):
    """By plain loops; an image without such a pixel counts as 0, and changes no other image's gradient."""
    shares = torch.tensor([0.0, 0.02, 0.5, 1.0])[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(4, 6, 5, generator=generator)
    chosen = torch.rand(4, 6, 5, generator=generator) < shares
    confidence = torch.where(chosen, 0.1 + 0.9 * rough, 0.1 * rough).requires_grad_()
    means = []
    for image in confidence.tolist():
        above = [value for row in image for value in row if value > 0.1]
        means.append(sum(above) / len(above) if above else 0.0)
    loss = pixel_loss(confidence, PixelConfig(pixels="above"))
    assert loss.item() == pytest.approx(sum(means) / 4, abs=1e-6)
    loss.backward()
    sums = (confidence.grad * 4).sum((1, 2))
    assert torch.allclose(sums, (confidence > 0.1).any(2).any(1).float(), atol=1e-5)
    pooled = confidence[confidence > 0.1].mean().item()
    assert abs(loss.item() - pooled) > 1e-3, "pooling the batch is something else"


def test_nothing_above_the_threshold_is_no_loss():
    assert pixel_loss(torch.full((2, 3, 3), 0.05), PixelConfig(pixels="above")).item() == 0


def test_region_constraint_counts_only_what_lies_outside():
    images = torch.zeros(2, 3, 2, 2)
    untreated = torch.zeros(2, 3, 2, 2)
    untreated[0, :, 0, 0] = 0.5
    untreated[0, :, 1, 1] = 1.0
    mask = torch.zeros(2, 2, 2)
    mask[0, 1, 1] = 1
    first = (3 * 0.25) ** 0.5
    frobenius = region_constraint(images, untreated, mask, "frobenius").item()
    assert frobenius == pytest.approx((first + 1e-6) / 2, abs=1e-5)
    rms = region_constraint(images, untreated, mask, "rms").item()
    assert rms == pytest.approx(frobenius / 12**0.5, abs=1e-6)


def test_region_constraint_has_a_gradient_where_nothing_changed_yet():
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)
    region_constraint(images, torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2), "frobenius").backward()
    assert torch.isfinite(images.grad).all()


def test_regions_are_smoothed_thresholded_pruned_and_grown():
    confidence = torch.zeros(1, 100, 100)
    confidence[0, 40:60, 40:60] = 1.0
    confidence[0, 10:13, 10:13] = 1.0
    confidence[0, 80, 80] = 1.0
    mask = region_mask(confidence, RegionConfig(dilation=0.03))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # The Gaussian adds one pixel on every side, the dilation three.
    assert mask[0, 36:64, 50].all() and not mask[0, 35, 50] and not mask[0, 64, 50]
    assert not mask[0, 5:20, 5:20].any(), "9 pixels are less than a tenth of the largest region"
    assert not mask[0, 75:85, 75:85].any()
    kept = region_mask(confidence, RegionConfig(dilation=0.0, main=0.0))
    assert kept[0, 11, 11] and kept[0, 40:60, 40:60].all() and not kept[0, 30, 30]
    assert not region_mask(torch.zeros(1, 8, 8), RegionConfig()).any()


class Affine(Linear):
    """The toy without guidance, whose latents are its image through a sigmoid."""

    guidance = training_guidance = 0.0

    def decode(self, latents):
        return latents.sigmoid()


NOISE = torch.linspace(-1, 1, 2 * 3 * 2 * 2).reshape(2, 3, 2, 2)


def treatment_loss(w, b, grad_last):
    """The pixel-aware loss of the toy under a smooth detector; parameters before the last steps stay
    fixed."""
    family = Affine(w, b)
    clean = sample(family, Conditioning({}), NOISE, SamplingConfig(steps=4), grad_last=grad_last)
    confidence = (family.decode(clean).square().sum(1) - 0.7).sigmoid()
    return family, all_pixels(confidence)


def test_the_gradient_through_the_whole_chain_is_the_finite_difference():
    family, loss = treatment_loss(0.3, -0.2, grad_last=4)
    loss.backward()
    step = 1e-3
    for index, gradient in enumerate((family.w.grad, family.b.grad)):
        up, down = [0.3, -0.2], [0.3, -0.2]
        up[index] += step
        down[index] -= step
        numeric = (treatment_loss(*up, 4)[1] - treatment_loss(*down, 4)[1]) / (2 * step)
        assert gradient.item() == pytest.approx(numeric.item(), rel=1e-3)


def test_the_truncated_gradient_is_that_of_a_chain_whose_start_is_fixed():
    """t_tr = 1: the finite difference where only the last step sees the changed parameters."""
    family, loss = treatment_loss(0.3, -0.2, grad_last=1)
    loss.backward()

    def last_step_only(w, b):
        before = Affine(0.3, -0.2)
        schedule = before.schedule(4, NOISE)
        latents = NOISE
        for i in range(4):
            at = Affine(w, b) if i == 3 else before
            latents = latents + (schedule.next_sigma[i] - schedule.sigma[i]) * at.predict(
                latents, None, None, 0
            )
        return (latents.sigmoid().square().sum(1) - 0.7).sigmoid().mean().item()

    step = 2e-2
    w_numeric = (last_step_only(0.3 + step, -0.2) - last_step_only(0.3 - step, -0.2)) / (2 * step)
    b_numeric = (last_step_only(0.3, -0.2 + step) - last_step_only(0.3, -0.2 - step)) / (2 * step)
    assert family.w.grad.item() == pytest.approx(w_numeric, rel=1e-3)
    assert family.b.grad.item() == pytest.approx(b_numeric, rel=1e-3)
    whole, full = treatment_loss(0.3, -0.2, grad_last=4)
    full.backward()
    assert abs(whole.w.grad.item() - family.w.grad.item()) > 1e-3, "truncation must make a difference"


def test_offline_loss_is_the_mean_squared_error_of_the_velocity():
    """For w = b = 0 the answer is 0, so the loss is the mean of (ε − x_0)²; γ multiplies it (Eq. 4)."""
    clean = torch.full((2, 3, 2, 2), 0.5)
    rng = torch.Generator().manual_seed(4)
    loss = offline_loss(Affine(0.0, 0.0), clean, Conditioning({}), OfflineConfig(), rng)
    same = torch.Generator().manual_seed(4)
    torch.rand(2, generator=same)
    noise = torch.randn(clean.shape, generator=same)
    assert loss.item() == pytest.approx(float(((noise - clean) ** 2).mean()), rel=1e-6)


@pytest.mark.parametrize("side", [16, 64, 128])
def test_offline_times_may_follow_the_shifted_schedule(side):
    """Those of diffusers' own scheduler with FLUX's dynamic shift, for latents of that size."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    seen = []

    class Watched(Affine):
        def predict(self, latents, times, conditioning, guidance):
            seen.append(times)
            return super().predict(latents, times, conditioning, guidance)

    clean, config = torch.zeros(64, 1, side, side), OfflineConfig(times="shifted")
    offline_loss(Watched(0.0, 0.0), clean, Conditioning({}), config, torch.Generator().manual_seed(4))
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(4))
    stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    expected = stock.time_shift(calculate_shift(side * side // 4), 1.0, uniform)
    assert torch.allclose(seen[0], expected, atol=1e-6) and (seen[0] > uniform).all()


def test_the_shifted_schedule_by_hand():
    """At 1024² μ = 1.15: 0.5 becomes e^1.15 / (e^1.15 + 1)."""
    times = shift_times(torch.tensor([0.0, 0.5, 1.0]), 4096)
    assert times.tolist() == pytest.approx([0.0, 0.75951, 1.0], abs=1e-5)
    assert shift_times(torch.tensor([0.5]), 256).item() == pytest.approx(0.62246, abs=1e-5)


def test_noise_prediction_keeps_its_own_times():
    class Epsilon(Affine):
        prediction = "epsilon"

    losses = [
        offline_loss(
            Epsilon(0.0, 0.0),
            torch.ones(4, 1, 8, 8),
            Conditioning({}),
            OfflineConfig(times=times),
            torch.Generator().manual_seed(1),
        ).item()
        for times in ("uniform", "shifted", "logit-normal")
    ]
    assert len(set(losses)) == 1


def test_offline_loss_of_noise_prediction_aims_at_the_noise():
    class Epsilon(Affine):
        prediction = "epsilon"

        def levels(self, times):
            return (1 - times).sqrt(), times.sqrt()

    clean = torch.full((2, 3, 2, 2), 0.5)
    loss = offline_loss(
        Epsilon(0.0, 0.0), clean, Conditioning({}), OfflineConfig(), torch.Generator().manual_seed(4)
    )
    same = torch.Generator().manual_seed(4)
    torch.rand(2, generator=same)
    assert loss.item() == pytest.approx(
        float(torch.randn(clean.shape, generator=same).square().mean()), rel=1e-6
    )


def test_logit_normal_times_crowd_the_middle():
    seen = []

    class Spy(Affine):
        def levels(self, times):
            seen.append(times)
            return 1 - times, times

    clean = torch.zeros(4000, 1, 1, 1)
    for times in ("uniform", "logit-normal"):
        offline_loss(
            Spy(0.0, 0.0),
            clean,
            Conditioning({}),
            OfflineConfig(times=times),
            torch.Generator().manual_seed(0),
        )
    middle = [float(((t > 0.25) & (t < 0.75)).float().mean()) for t in seen]
    assert np.isclose(middle[0], 0.5, atol=0.03) and middle[1] > 0.68
