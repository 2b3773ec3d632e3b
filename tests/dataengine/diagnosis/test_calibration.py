import numpy as np
import pytest

from dataengine.diagnosis.calibration import (
    LEVELS,
    Histogram,
    apply_temperature,
    calibrate,
    fit_temperature,
    measure_reliability,
)
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.errors import InputRefused
from tests.dataengine.diagnosis.tiny import SEGFORMER, examples


def overconfident(temperature: float, seed: int = 0) -> Histogram:
    """Pixels whose truth follows σ(logit / T) while the detector says σ(logit)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, 200_000)
    flawed = rng.random(len(logits)) < 1 / (1 + np.exp(-logits / temperature))
    level = np.minimum((LEVELS / (1 + np.exp(-logits))).astype(int), LEVELS - 1)
    return Histogram(
        flawed=np.bincount(level[flawed], minlength=LEVELS),
        clean=np.bincount(level[~flawed], minlength=LEVELS),
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_confidences_is_found(temperature: float) -> None:
    found = overconfident(temperature)
    fitted = fit_temperature(found)
    assert fitted == pytest.approx(temperature, rel=0.06)
    assert measure_reliability(found, fitted).error < 0.01
    if temperature != 1:
        assert measure_reliability(found).error > 3 * measure_reliability(found, fitted).error


def test_a_diagram_by_hand() -> None:
    flawed, clean = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    flawed[-1], clean[-1] = 3, 1
    clean[0] = 4
    diagram = measure_reliability(Histogram(flawed=flawed, clean=clean))
    assert sum(diagram.pixels) == 8 and diagram.pixels[0] == diagram.pixels[-1] == 4
    assert diagram.flawed[-1] == 0.75 and diagram.flawed[0] == 0
    assert diagram.error == pytest.approx((0.25 + 0) / 2, abs=1e-3)


def test_tempering_keeps_order_and_one_half() -> None:
    q = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    soft = apply_temperature(q, 2.0)
    assert soft[2] == 0.5 and (np.diff(soft) > 0).all() and soft[3] < 0.9 and soft[1] > 0.1
    assert np.allclose(apply_temperature(q, 1.0), q, atol=1e-5)


def test_it_is_fitted_on_validation_and_shown_on_what_is_held_out() -> None:
    detector = NetworkDetector.fresh(SEGFORMER, seed=1).eval().requires_grad_(False)
    fitted = calibrate(detector, examples(16), examples(8))
    assert sum(fitted.before.pixels) == 8 * 32 * 32
    assert calibrate(detector, examples(16)).temperature == fitted.temperature
    assert fitted.temperature > 0


def test_sets_that_decide_nothing_are_refused() -> None:
    detector = NetworkDetector.fresh(SEGFORMER, seed=1).eval()
    clean = Sample(image=np.zeros((8, 8, 3), np.uint8), target=np.zeros((8, 8), np.float32), kind="true")
    with pytest.raises(InputRefused, match="both kinds"):
        calibrate(detector, MemorySamples([clean]))
    with pytest.raises(InputRefused, match="no images"):
        calibrate(detector, MemorySamples([]))
