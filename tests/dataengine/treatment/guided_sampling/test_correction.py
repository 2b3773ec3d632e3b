"""Correction on the way: bits of what is well, regions of what is not, every baseline, refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import compute_dynamics
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from dataengine.treatment.guided_sampling.correction import Corrector, make_correctors
from dataengine.treatment.sampling.sampler import denoise, generate, mask_on_latents
from dataengine.treatment.sampling.trajectory import Recorder
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=10, batch=4)
SEEDS = [1, 2, 3]
WINDOW = DynamicsConfig(stop=0.48)
LOOSE = WINDOW.model_copy(update={"deviations": 1.0, "smallest": 0.0, "largest": 1.0, "erosion": 0.0})
STRICT = WINDOW.model_copy(update={"deviations": 1e6})
METHODS = ("ttc", "replacement", "clipping", "sargd")


class Suspicious:
    """Suspects the top left quarter of those images of the batch that it is told to."""

    def __init__(self, *rows: int) -> None:
        self.rows = rows

    def confidence(self, images):
        found = torch.zeros_like(images[:, 0])
        height, width = images.shape[-2:]
        for row in self.rows:
            found[row, : height // 2, : width // 2] = 1
        return found


@pytest.fixture(scope="module", params=["flux", "sd"])
def family(request, flux_folder, sd_folder):
    return load_family(flux_folder if request.param == "flux" else sd_folder)


@pytest.fixture(scope="module")
def plain(family):
    return generate(family, PROMPTS[:3], SEEDS, SETTINGS)


def corrected(family, config, detector=None, seeds=SEEDS):
    return generate(family, PROMPTS[:3], seeds, SETTINGS, steppers=make_correctors(config, seeds, detector))


@pytest.mark.parametrize("method", METHODS)
def test_without_regions_the_images_keep_their_bits(family, plain, method):
    config = CorrectionConfig(method=method, regions="detector", dynamics=WINDOW)
    assert np.array_equal(corrected(family, config, Suspicious()), plain)


def test_without_abnormal_dynamics_the_images_keep_their_bits(family, plain):
    assert np.array_equal(corrected(family, CorrectionConfig(dynamics=STRICT)), plain)
    # The tiny tokenizer differs from build to build, and with it the regions: any share of the image will do.
    found = corrected(family, CorrectionConfig(dynamics=LOOSE, cover=1.0))
    assert not np.array_equal(found, plain)


@pytest.mark.parametrize("method", METHODS)
def test_a_mixed_batch_changes_only_the_images_with_regions(family, plain, method):
    config = CorrectionConfig(method=method, regions="detector", dynamics=WINDOW)
    found = corrected(family, config, Suspicious(1))
    assert np.array_equal(found[[0, 2]], plain[[0, 2]])
    assert not np.array_equal(found[1], plain[1])


def chain(family, config, steps=10, detector=None, noise=None):
    """A corrected chain, step by step: the corrector, the schedule, the states that the model was asked at,
    and the results of the steps. `noise` stands for all that is drawn."""
    asked = []

    def inner(family, latents, *others):
        asked.append(latents)
        return denoise(family, latents, *others)

    corrector = Corrector(config, SEEDS, detector, inner)
    if noise is not None:
        corrector._drawn = lambda like: torch.full_like(like, noise)
    latents = family.initial_latents(SEEDS, family.size)
    told, schedule = family.encode_prompts(PROMPTS[:3]), family.schedule(steps, latents)
    made = []
    with torch.no_grad():
        for step in range(steps):
            made.append(corrector(family, latents, told, schedule, step, family.guidance))
            latents = made[-1].latents
    return corrector, schedule, asked, made


def plain_chain(family, steps=10):
    """The states before each step of the uncorrected chain, and x̂_0 there."""
    latents = family.initial_latents(SEEDS, family.size)
    told, schedule = family.encode_prompts(PROMPTS[:3]), family.schedule(steps, latents)
    states, cleans = [], []
    with torch.no_grad():
        for step in range(steps):
            made = denoise(family, latents, told, schedule, step, family.guidance)
            states.append(latents)
            cleans.append(made.clean)
            latents = made.latents
    return states, cleans


def replaced_steps(asked, states):
    """Steps at which the model was asked about another state than without correction, up to the first."""
    return next(step for step, pair in enumerate(zip(asked, states, strict=True)) if not torch.equal(*pair))


@pytest.mark.parametrize(("steps", "level"), [(25, 0.48), (10, 0.5), (5, 0.6), (50, 0.48)])
def test_the_state_at_t_c_is_replaced_before_the_model_is_asked_there(family, steps, level):
    config = CorrectionConfig(regions="everywhere")
    _, schedule, asked, _ = chain(family, config, steps)
    states, _ = plain_chain(family, steps)
    first = replaced_steps(asked, states)
    # DDIM's times are a thousandth above the level.
    assert schedule.shares[first] == pytest.approx(level, abs=2e-3)
    assert len(asked) == steps, "the model takes that step and all that follow"


@pytest.mark.parametrize("back", [1, 2, 4])
def test_ttc_noises_the_x0_of_reverse_step_steps_before(family, back):
    """x_t = α_t·(x̂_0 + γ·ξ) + σ_t·ε at the level itself, with ξ = ε = 0.7 everywhere."""
    config = CorrectionConfig(regions="detector", reverse_step=back, gamma=0.3)
    _, schedule, asked, _ = chain(family, config, detector=Suspicious(0, 2), noise=0.7)
    states, cleans = plain_chain(family)
    at = replaced_steps(asked, states)
    assert at == (5 if family.prediction == "flow" else 4)
    half = asked[at].shape[-2] // 2
    expected = states[at].clone()
    started = schedule.alpha[at] * (cleans[at - back] + 0.3 * 0.7) + schedule.sigma[at] * 0.7
    for row in (0, 2):
        expected[row, :, :half, : expected.shape[-1] // 2] = started[row, :, :half, : expected.shape[-1] // 2]
    assert torch.allclose(asked[at], expected, atol=1e-6)
    assert torch.equal(asked[at][1], states[at][1]), "outside, the bits stay"
    assert torch.equal(asked[at][0, :, half:], states[at][0, :, half:])


def test_replacement_takes_the_x0_of_an_earlier_step(family):
    config = CorrectionConfig(method="replacement", earlier=3, regions="everywhere")
    _, schedule, asked, _ = chain(family, config, noise=-0.4)
    states, cleans = plain_chain(family)
    at = replaced_steps(asked, states)
    expected = schedule.alpha[at] * cleans[at - 3] - schedule.sigma[at] * 0.4
    assert torch.allclose(asked[at], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "steps", "frames"), [("latent", 25, 8), ("pixel", 25, 8), ("latent", 5, 2)]
)
def test_frames_begin_at_the_start_and_end_one_step_before_t_c(family, space, steps, frames):
    """With few steps one frame lies in the window, so they begin a step earlier."""
    steps += steps == 5 and family.prediction == "epsilon"
    dynamics = LOOSE.model_copy(update={"space": space})
    config = CorrectionConfig(dynamics=dynamics, cover=1.0)
    corrector, schedule, asked, _ = chain(family, config, steps)
    states, cleans = plain_chain(family, steps)
    window = [step for step, share in enumerate(schedule.shares) if 0.48 <= round(share, 2) <= 0.8]
    window = list(range(window[-1] - frames, window[-1] + 1))
    if steps == 25:
        assert [round(schedule.shares[step], 2) for step in (window[0], window[-1])] == [0.8, 0.48]
    frames = torch.stack([cleans[step] for step in window[:-1]], 1)
    if space == "pixel":
        shown = [(family.decode(each) * 255).floor().byte() for each in frames]
        regions = [compute_dynamics(each.numpy(), dynamics).regions for each in shown]
    else:
        regions = [compute_dynamics(each.numpy(), dynamics).regions for each in frames]
    expected = mask_on_latents(torch.from_numpy(np.stack(regions)), asked[0])
    assert expected.any() and torch.equal(corrector.regions, expected)
    assert replaced_steps(asked, states) == window[-1]


def test_a_state_is_drawn_from_q_sample(family):
    config = CorrectionConfig(regions="everywhere", gamma=2.0)
    _, schedule, asked, _ = chain(family, config)
    states, cleans = plain_chain(family)
    at = replaced_steps(asked, states)
    noise = asked[at] - schedule.alpha[at] * cleans[at - 1]
    expected = (schedule.sigma[at] ** 2 + (2 * schedule.alpha[at]) ** 2) ** 0.5
    assert noise.std().item() == pytest.approx(float(expected), rel=0.1)


def test_eta_is_that_of_the_step_at_t_c_alone(family):
    """η = 1 draws from q(x_s | x_t, x̂_0), whose mean and variance follow from two Gaussians."""
    config = CorrectionConfig(regions="detector", correct_eta=1.0)
    _, schedule, asked, made = chain(family, config, detector=Suspicious(0), noise=0.5)
    states, _ = plain_chain(family)
    at = replaced_steps(asked, states)
    for step in range(10):
        alpha, sigma = float(schedule.alpha[step]), float(schedule.sigma[step])
        alpha_s, sigma_s = float(schedule.next_alpha[step]), float(schedule.next_sigma[step])
        clean, noise = made[step].clean, (asked[step] - alpha * made[step].clean) / sigma
        if step != at:
            expected = alpha_s * clean + sigma_s * noise
        else:
            ratio = alpha / alpha_s
            precision = 1 / sigma_s**2 + ratio**2 / (sigma**2 - ratio**2 * sigma_s**2)
            weighed = alpha_s * clean / sigma_s**2 + ratio * asked[step] / (sigma**2 - ratio**2 * sigma_s**2)
            expected = weighed / precision + 0.5 * precision**-0.5
        assert torch.allclose(made[step].latents, expected, atol=1e-4), step


def test_only_the_region_is_touched(family):
    config = CorrectionConfig(regions="detector", dynamics=WINDOW)
    corrector, _, asked, _ = chain(family, config, detector=Suspicious(0, 2))
    states, _ = plain_chain(family)
    at = replaced_steps(asked, states)
    inside = corrector.regions[:, None].expand_as(asked[at])
    assert corrector.regions.float().mean((1, 2)).tolist() == [0.25, 0, 0.25]
    assert torch.equal(asked[at][~inside], states[at][~inside])
    assert (asked[at][inside] != states[at][inside]).float().mean() > 0.99


class Told(Suspicious):
    """Suspects the first image for as many times as it is told to."""

    def __init__(self, times):
        super().__init__(0)
        self.asked, self.times = 0, times

    def confidence(self, images):
        self.asked += 1
        self.rows = (0,) if self.asked <= self.times else ()
        return super().confidence(images)


@pytest.mark.parametrize("changes", [{"repeated": True}, {"method": "sargd"}])
def test_repeated_corrections_follow_what_is_found_at_every_step(family, changes):
    config = CorrectionConfig(regions="detector", dynamics=WINDOW, **changes)
    detector = Told(2)
    _, schedule, asked, made = chain(family, config, detector=detector, noise=0.2)
    steps = [step for step, share in enumerate(schedule.shares) if 0.48 <= round(share, 2) <= 0.8]
    assert detector.asked == len(steps) - 1 >= 3
    replaced = [step for step in range(1, 10) if not torch.equal(asked[step], made[step - 1].latents)]
    assert replaced == steps[1:3]
    for step in replaced:
        outside = asked[step][1:], made[step - 1].latents[1:]
        assert torch.equal(*outside)
        started = made[steps[0]].clean if config.method == "sargd" else made[step - 1].clean + 0.2 * 0.2
        expected = schedule.alpha[step] * started + schedule.sigma[step] * 0.2
        corner = (0, 0, 0, 0)
        assert float(asked[step][corner]) == pytest.approx(float(expected[corner]), abs=1e-5)


def test_a_recorder_around_a_correction_sees_the_state_that_the_model_was_asked_at(family):
    seen = DynamicsConfig(form="paper")
    recorder = Recorder(seen, Corrector(CorrectionConfig(regions="everywhere", gamma=0), SEEDS))
    recorder._inner._drawn = lambda like: torch.full_like(like, 0.7)
    generate(family, PROMPTS[:3], SEEDS, SETTINGS, steppers=lambda rows: recorder)
    _, schedule, asked, made = chain(family, CorrectionConfig(regions="everywhere", gamma=0), noise=0.7)
    scores = [made[step].clean - asked[step] / schedule.alpha[step] for step in recorder.steps]
    assert np.allclose(np.stack(recorder._frames), torch.stack(scores).numpy(), rtol=1e-3, atol=1e-3)


def test_settings_of_the_window_that_are_left_out_are_the_corrections():
    found = CorrectionConfig.model_validate({"dynamics": {"deviations": 2.0}}).dynamics
    assert (found.stop, found.dilation, found.start, found.deviations) == (0.48, 5 / 256, 0.8, 2.0)
    assert CorrectionConfig.model_validate({"dynamics": {"stop": 0.2, "dilation": 0}}).dynamics == (
        DynamicsConfig()
    )


def test_clipping_bounds_the_change_of_the_score(family):
    config = CorrectionConfig(method="clipping", regions="everywhere", dynamics=WINDOW)
    corrector, _, asked, steps = chain(family, config)
    states, cleans = plain_chain(family)
    at = replaced_steps(asked, states) - 1
    made = steps[at]
    before, after = corrector._scores[:2]
    unbounded = cleans[at] - (made.clean - after)
    change = (unbounded - before).abs().flatten(1)
    deviation = (change - change.median(1, keepdim=True).values).abs().median(1).values
    limit = torch.maximum(change.mean(1), deviation)[:, None]
    assert (change > limit * 1.01).any(1).all()
    assert ((after - before).abs().flatten(1) <= limit * 1.01).all()
    assert torch.isfinite(made.latents).all()


def test_noise_depends_on_the_images_own_seed(family):
    config = CorrectionConfig(regions="everywhere", dynamics=WINDOW)
    first = corrected(family, config)
    assert np.array_equal(first, corrected(family, config))
    assert not np.array_equal(first, corrected(family, config.model_copy(update={"seed": 1})))
    alone = generate(family, PROMPTS[1:2], SEEDS[1:2], SETTINGS, steppers=make_correctors(config, SEEDS[1:2]))
    assert np.abs(alone[0].astype(int) - first[1]).max() <= 2


def test_images_broken_all_over_are_left_alone(family, plain):
    class Everything:
        def confidence(self, images):
            return torch.ones_like(images[:, 0])

    config = CorrectionConfig(regions="detector", dynamics=WINDOW)
    assert np.array_equal(corrected(family, config, Everything()), plain)
    whole = config.model_copy(update={"cover": 1.0})
    assert not np.array_equal(corrected(family, whole, Everything()), plain)


def test_refusals(family):
    with pytest.raises(ConfigRefused, match="pass one"):
        make_correctors(CorrectionConfig(regions="detector"), SEEDS)
    for steps, config in (
        (2, CorrectionConfig()),
        (10, CorrectionConfig(regions="detector", reverse_step=6)),
    ):
        few, steppers = SamplingConfig(steps=steps), make_correctors(config, [1], Suspicious())
        with pytest.raises(ConfigRefused, match=r"needs [26] steps before it; sample with more steps"):
            generate(family, PROMPTS[:1], [1], few, steppers=steppers)
    again = CorrectionConfig(regions="detector", repeated=True, dynamics=DynamicsConfig(start=0.5, stop=0.45))
    with pytest.raises(ConfigRefused, match=r"and 2 must be; sample with \d+ steps"):
        generate(family, PROMPTS[:1], [1], SETTINGS, steppers=make_correctors(again, [1], Suspicious()))
    with pytest.raises(ValidationError, match="trained detector"):
        CorrectionConfig(method="sargd")
    with pytest.raises(ValidationError, match="as an artifact"):
        CorrectionConfig(repeated=True)
    with pytest.raises(ValidationError, match="already works at every step"):
        CorrectionConfig(method="sargd", regions="detector", repeated=True)
    with pytest.raises(ValidationError, match="latent"):
        CorrectionConfig(method="clipping", dynamics=DynamicsConfig(space="pixel"))


def test_even_the_state_of_the_last_step_can_be_replaced(family, plain):
    late = CorrectionConfig(regions="everywhere", dynamics=DynamicsConfig(stop=0.0))
    assert not np.array_equal(corrected(family, late), plain)


def test_a_latent_is_inside_when_any_of_its_pixels_is():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 3, 5] = True
    assert mask_on_latents(mask, torch.zeros(1, 4, 2, 2)).tolist() == [[[False, True], [False, False]]]
    assert mask_on_latents(mask, torch.zeros(1, 3, 8, 8)).equal(mask)
