"""The estimated memory of every moment of a treatment, against what really is allocated."""

import tracemalloc

import numpy as np
import pytest
import torch

from dataengine.quality.config import GuardConfig
from dataengine.quality.guard import Guard
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import draw, encode
from dataengine.treatment.tuning import moments
from dataengine.treatment.tuning.estimate import Ledger, fake_tensors
from dataengine.treatment.tuning.moments import (
    PIXELS_AT_ONCE,
    Moment,
    RunEstimate,
    advice,
    estimate_moments,
    guard_bytes,
)
from dataengine.treatment.tuning.weightless import family_without_weights
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

CONFIG = TreatmentConfig(
    batch=1,
    grad_steps=1,
    offline=None,
    sampling=SamplingConfig(steps=3, guidance=3.0, batch=6),
    lora=LoraSettings(rank=2),
)
JUDGED = 8


@pytest.fixture(scope="module", params=["flux_folder", "sd_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def predicted(folder):
    found = estimate_moments(CONFIG, folder, ToyDetector(), judging=JUDGED)
    return {moment.name: moment for moment in found.moments}


@pytest.fixture(scope="module")
def family(folder):
    return load_family(folder)


def drawn(family, count):
    """Peak bytes of drawing so many images at once."""
    texts = [PROMPTS[number % 4] for number in range(count)]
    conditioning = encode(family, texts)
    with Ledger() as ledger:
        draw(family, conditioning, list(range(count)), CONFIG.sampling)
    return ledger.peak


def test_drawing_for_guard_verification_and_judging(family, predicted):
    large, small = drawn(family, 6), drawn(family, 4)
    for name in ("the quality guard", "judging"):
        assert 0.9 <= predicted[name].activations_bytes / large <= 1.15, name
    assert 0.9 <= predicted["verification"].activations_bytes / small <= 1.15


def test_encoding_prompts(family, predicted):
    with Ledger() as ledger:
        family.encode_prompts([PROMPTS[number % 4] for number in range(32)])
    assert 0.9 <= predicted["loading and encoding"].activations_bytes / ledger.peak <= 1.5


def test_the_instruction_that_a_pipeline_puts_around_its_prompts_is_read_too(tmp_path):
    """Sana's is several times as long as the rows that it answers."""
    folder = save_tiny("SanaPipeline", tmp_path)
    with Ledger() as ledger:
        load_family(folder).encode_prompts(list(PROMPTS))
    with fake_tensors():
        fake = family_without_weights(folder, prompt=max(PROMPTS, key=len))
        assert 0.95 <= moments.encoding_bytes(fake, 4) / ledger.peak <= 1.05


def test_text_encoders_that_look_at_values_count_by_their_hidden_states(family):
    network = family.pipeline.text_encoder

    class Looking:
        config, dtype = network.config, network.dtype

        def __call__(self, tokens, **options):
            raise RuntimeError("data-dependent operator")

    states = (network.config.num_hidden_layers + 1) * 4 * 8 * network.config.hidden_size
    assert moments._reading(Looking(), torch.zeros(4, 8, dtype=torch.long)) == 4 * states


def test_maps_of_the_judged_images(predicted):
    detector = ToyDetector()
    images = torch.rand(JUDGED, 3, 32, 32)
    with Ledger() as ledger, torch.no_grad():
        detector.confidence(images)
    maps = predicted["the detector's maps of the judged images"]
    assert 0.9 <= maps.activations_bytes / (ledger.peak + images.nbytes) <= 1.15
    assert maps.weights_bytes == sum(weight.nbytes for weight in detector.parameters())


def test_weights_are_those_that_lie_on_the_device_at_that_moment(family, predicted):
    whole = sum(weight.nbytes for net in family.modules().values() for weight in net.parameters())
    detector = predicted["the detector's maps of the judged images"].weights_bytes
    assert predicted["loading and encoding"].weights_bytes == whole + detector
    lora = predicted["verification"].weights_bytes - whole
    assert lora > 0 and predicted["judging"].weights_bytes == whole + lora
    # Weight, gradient and two moments in an update.
    assert predicted["an update"].weights_bytes == whole + detector + 4 * lora
    assert predicted["verification"].host_bytes == whole


@pytest.mark.parametrize("folder", ["flux_folder"], indirect=True)
def test_text_encoders_and_activations_away_are_in_host_memory(folder, predicted):
    away = CONFIG.model_copy(update={"offload": ("text", "activations")})
    found = estimate_moments(away, folder, ToyDetector(), judging=JUDGED)
    moved = {moment.name: moment for moment in found.moments}
    for name in ("an update", "the quality guard"):
        assert moved[name].device_bytes < predicted[name].device_bytes
        text = predicted[name].weights_bytes - moved[name].weights_bytes
        assert text > 0 and moved[name].host_bytes - predicted[name].host_bytes >= text
    assert moved["an update"].host_bytes > found.update.saved_bytes > 0
    assert moved["verification"] == predicted["verification"]
    on_cpu = estimate_moments(away, folder, ToyDetector(), judging=JUDGED, on_cpu=True)
    # Nothing is loaded twice where the host is the device, and nothing is away from it.
    assert {moment.name: moment for moment in on_cpu.moments}["verification"].host_bytes == 0


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_host_memory_of_the_guard(seeds):
    limits = GuardConfig(prompts=4, seeds=seeds)
    guard = Guard(limits, list(PROMPTS))
    rng, shape = np.random.default_rng(0), (4 * seeds, 64, 64, 3)
    before, after = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
    baseline = guard.baseline(before)
    tracemalloc.start()
    guard.check(baseline, after)
    peak = tracemalloc.get_traced_memory()[1] + before.nbytes + after.nbytes
    tracemalloc.stop()
    assert 0.9 <= guard_bytes(CONFIG.model_copy(update={"guard": limits}), 64, 64) / peak <= 1.15


def test_the_peak_is_named(flux_folder):
    wide = CONFIG.model_copy(update={"sampling": SamplingConfig(steps=1, batch=64)})
    found = estimate_moments(wide, flux_folder, ToyDetector(), judging=JUDGED)
    device, host = found.peaks(on_cpu=False)
    largest = max(found.moments, key=lambda moment: moment.weights_bytes + moment.activations_bytes)
    assert (device.size, device.moment) == (largest.device_bytes, largest.name)
    assert host.size == max(moment.host_bytes for moment in found.moments)
    assert found.as_json()["moments"][0]["name"] == "loading and encoding"
    assert device.moment == "the quality guard"


def test_advice_is_about_the_moment_of_the_peak(flux_folder):
    wide = CONFIG.model_copy(update={"sampling": SamplingConfig(steps=1, batch=64)})
    said = advice(wide, flux_folder, detector=ToyDetector())
    assert "Estimated need: 0.0" in said and "(the quality guard)" in said
    assert "sampling.batch 16 (" in said and "checkpointing" not in said


def test_where_the_host_is_the_device_both_are_added():
    def moment(name, device, host):
        return Moment(name=name, weights_bytes=device, activations_bytes=0, host_bytes=host)

    update = estimate_update()
    found = RunEstimate(
        update=update, moments=(moment("one", 5, 1), moment("two", 4, 4), moment("three", 1, 5))
    )
    assert [peak.moment for peak in found.peaks(on_cpu=False)] == ["one", "three"]
    together, none = found.peaks(on_cpu=True)
    assert (together.size, together.moment, none) == (8, "two", None)
    assert together.text == "0.00 GB (two)"


def estimate_update():
    from dataengine.treatment.tuning.estimate import Estimate

    return Estimate(weights_bytes=1, activations_bytes=1, flops=1.0, calls=1, saved_bytes=1)


def test_maps_are_predicted_in_batches_of_bounded_size(flux_folder):
    assert PIXELS_AT_ONCE // (1024 * 1024) == 4
    side = 2 * 1024
    huge = CONFIG.model_copy(update={"sampling": SamplingConfig(steps=1, height=side, width=side, batch=1)})
    maps = estimate_moments(huge, flux_folder, ToyDetector(), judging=8).moments[-1]
    assert maps.activations_bytes < 2.5e9 * 2
