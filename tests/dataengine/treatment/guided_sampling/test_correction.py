"""Correction on the way: bits of what is well, regions of what is not, every baseline, refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import CorrectionConfig, SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.correction import Corrector, make_correctors, mask_on_latents
from dataengine.treatment.sampling.sampler import denoise, generate
from dataengine.treatment.sampling.trajectory import watched_steps
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


def one_step(family, config, detector=None):
    """Latents after the correcting step, with and without correction, and the corrector."""
    latents = family.initial_latents(SEEDS, family.size)
    told = family.encode_prompts(PROMPTS[:3])
    schedule = family.schedule(SETTINGS.steps, latents)
    corrector = Corrector(config, SEEDS, detector)
    with torch.no_grad():
        for step in range(SETTINGS.steps):
            made = corrector(family, latents, told, schedule, step, family.guidance)
            usual = denoise(family, latents, told, schedule, step, family.guidance)
            if not torch.equal(made.latents, usual.latents):
                return made, usual, schedule, step, corrector
            latents = made.latents
    raise AssertionError("nothing was corrected")


def test_ttc_starts_the_region_again_from_noised_x0(family):
    config = CorrectionConfig(regions="everywhere", dynamics=WINDOW, gamma=0.0)
    made, usual, schedule, step, _ = one_step(family, config)
    assert schedule.shares[step] >= 0.48 - 1e-6 > schedule.shares[step + 1] - 1e-9
    noise = made.latents - schedule.next_alpha[step] * usual.clean
    assert noise.std().item() == pytest.approx(float(schedule.next_sigma[step]), rel=0.1)
    stronger = one_step(family, config.model_copy(update={"gamma": 2.0}))[0]
    noise = stronger.latents - schedule.next_alpha[step] * usual.clean
    expected = (schedule.next_sigma[step] ** 2 + (2 * schedule.next_alpha[step]) ** 2) ** 0.5
    assert noise.std().item() == pytest.approx(float(expected), rel=0.1)


def test_only_the_region_is_touched(family):
    config = CorrectionConfig(regions="detector", dynamics=WINDOW)
    made, usual, _, _, corrector = one_step(family, config, Suspicious(0, 2))
    inside = corrector.regions[:, None].expand_as(made.latents)
    assert corrector.regions.float().mean((1, 2)).tolist() == [0.25, 0, 0.25]
    assert torch.equal(made.latents[~inside], usual.latents[~inside])
    assert (made.latents[inside] != usual.latents[inside]).float().mean() > 0.99


def test_repeated_corrections_follow_what_is_found_at_every_step(family):
    class Told(Suspicious):
        def __init__(self):
            super().__init__(0)
            self.asked = 0

        def confidence(self, images):
            self.asked += 1
            self.rows = (0,) if self.asked < 3 else ()
            return super().confidence(images)

    config = CorrectionConfig(regions="detector", repeated=True, dynamics=WINDOW)
    detector, corrector = Told(), None
    latents = family.initial_latents(SEEDS, family.size)
    told, schedule, changed = family.encode_prompts(PROMPTS[:3]), family.schedule(10, latents), []
    corrector = Corrector(config, SEEDS, detector)
    with torch.no_grad():
        for step in range(10):
            made = corrector(family, latents, told, schedule, step, family.guidance)
            usual = denoise(family, latents, told, schedule, step, family.guidance)
            changed.append((made.latents != usual.latents).flatten(1).any(1).tolist())
            latents = made.latents
    steps = watched_steps(family, schedule, latents, WINDOW)
    assert detector.asked == len(steps) >= 3
    assert [step for step in range(10) if changed[step][0]] == steps[:2]
    assert not any(row[1] or row[2] for row in changed)


def test_replacement_goes_back_to_an_earlier_x0(family):
    near, far = (
        one_step(family, CorrectionConfig(method="replacement", earlier=n, regions="everywhere"))[0]
        for n in (1, 3)
    )
    assert not torch.equal(near.latents, far.latents)


def test_clipping_bounds_the_change_of_the_score(family):
    config = CorrectionConfig(method="clipping", regions="everywhere", dynamics=WINDOW)
    made, usual, _, _, corrector = one_step(family, config)
    before, after = corrector._scores[-2:]
    unbounded = usual.clean - (made.clean - after)
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
    few = SamplingConfig(steps=2)
    with pytest.raises(ConfigRefused, match="sample with"):
        generate(family, PROMPTS[:1], [1], few, steppers=make_correctors(CorrectionConfig(), [1]))
    with pytest.raises(ValidationError, match="trained detector"):
        CorrectionConfig(method="sargd")
    with pytest.raises(ValidationError, match="as an artifact"):
        CorrectionConfig(repeated=True)
    with pytest.raises(ValidationError, match="already works at every step"):
        CorrectionConfig(method="sargd", regions="detector", repeated=True)
    late = CorrectionConfig(regions="everywhere", dynamics=DynamicsConfig(stop=0.0))
    with pytest.raises(ConfigRefused, match=r"no step can use a correction: set dynamics\.stop above"):
        generate(family, PROMPTS[:1], [1], SETTINGS, steppers=make_correctors(late, [1]))
    with pytest.raises(ValidationError, match="latent"):
        CorrectionConfig(method="clipping", dynamics=DynamicsConfig(space="pixel"))


def test_a_latent_is_inside_when_any_of_its_pixels_is():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 3, 5] = True
    assert mask_on_latents(mask, torch.zeros(1, 4, 2, 2)).tolist() == [[[False, True], [False, False]]]
    assert mask_on_latents(mask, torch.zeros(1, 3, 8, 8)).equal(mask)
