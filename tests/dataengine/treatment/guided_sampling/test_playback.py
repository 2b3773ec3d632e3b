"""Playing an image changes nothing of it, and shows what changed, what was abnormal, what was corrected."""

import numpy as np
import pytest
import torch

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from dataengine.treatment.guided_sampling.correction import make_correctors
from dataengine.treatment.guided_sampling.playback import play
from dataengine.treatment.sampling.sampler import as_uint8, generate
from tests.dataengine.treatment.tiny import PROMPTS

SETTINGS = SamplingConfig(steps=10, batch=1)
LOOSE = DynamicsConfig(deviations=1.0, smallest=0.0, largest=1.0, erosion=0.0)


@pytest.fixture(scope="module", params=["flux", "sd"])
def family(request, flux_folder, sd_folder):
    return load_family(flux_folder if request.param == "flux" else sd_folder)


def test_a_played_image_is_the_one_that_was_drawn(family):
    (drawn,) = generate(family, PROMPTS[:1], [7], SETTINGS)
    steps, image = play(family, PROMPTS[0], 7, SETTINGS, LOOSE)
    assert np.array_equal(image, drawn) and len(steps) == 10
    levels = [step.level for step in steps]
    assert levels == sorted(levels, reverse=True)
    assert all(step.clean.shape == drawn.shape and step.clean.dtype == np.uint8 for step in steps)
    last = np.abs(steps[-1].clean.astype(int) - drawn.astype(int)).max()
    assert last <= 1, "the last prediction is the image, up to rounding"
    assert steps[0].change is None and all(step.change.shape == drawn.shape[:2] for step in steps[1:])
    inside = [0.2 <= round(step.level, 2) <= 0.8 for step in steps]
    first = inside.index(True)
    judged = [step.abnormal is not None for step in steps]
    assert judged == [within and at > first for at, within in enumerate(inside)]
    assert any(step.abnormal.any() for step in steps if step.abnormal is not None)
    assert all(step.corrected is None for step in steps)


def test_corrected_regions_are_shown_at_the_steps_that_corrected(family):
    config = CorrectionConfig(dynamics=LOOSE.model_copy(update={"stop": 0.48}), cover=1.0)
    (drawn,) = generate(family, PROMPTS[:1], [7], SETTINGS, steppers=make_correctors(config, [7]))
    steps, image = play(family, PROMPTS[0], 7, SETTINGS, LOOSE, make_correctors(config, [7]))
    assert np.array_equal(image, drawn)
    corrected = [at for at, step in enumerate(steps) if step.corrected is not None]
    # T_c: the last level at or above 0.48 (ASCED, Sec. 3.3, by our reading).
    expected = max(at for at, step in enumerate(steps) if step.level >= 0.48 - 1e-3)
    assert corrected == [expected] and steps[expected].corrected.any()


def test_a_generator_without_x0_is_refused_with_the_reason(family, monkeypatch):
    monkeypatch.setattr(family, "prediction", "sample", raising=False)
    with pytest.raises(ConfigRefused, match="predicts 'sample', which gives no x̂0 at its steps"):
        play(family, PROMPTS[0], 7, SETTINGS, LOOSE)


def test_one_step_has_no_changes(flux_folder):
    family = load_family(flux_folder)
    steps, image = play(family, PROMPTS[0], 7, SamplingConfig(steps=1, batch=1), LOOSE)
    assert len(steps) == 1 and steps[0].change is None and steps[0].abnormal is None
    assert np.array_equal(as_uint8(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0], steps[0].clean)
