"""The GPU bench of treatment proves itself with small networks on the processor."""

import importlib.util
import json

import pytest
import torch

from tests.bench import harness
from tests.bench.harness import figure
from tests.bench.treatment_gpu import PLANS, TINY, Log, Subject, measured, predicted

CPU = torch.device("cpu")
FULL, QUANTISED = PLANS[0], PLANS[-1]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    return tmp_path


def test_an_update_of_drawn_weights_reaches_every_matrix():
    subject = Subject(TINY, CPU, None)
    transformer, vae = (subject.family.modules()[name] for name in ("transformer", "vae"))
    assert {weight.dtype for weight in vae.parameters()} == {torch.float32}
    drawn = [weight for name, weight in transformer.named_parameters() if "lora" not in name]
    assert {weight.dtype for weight in drawn} == {torch.bfloat16}
    large = max(drawn, key=torch.numel).float()
    assert 0.01 < large.std() < 0.03 and abs(large.mean()) < 0.001
    figures = {one.id: one.value for one in measured(subject, FULL, rate=1.0)}
    assert figures["flux_512_gradients_reach"] is True
    assert figures["flux_512_step_s"] > figures["flux_512_forward_s"] > 0


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_base_in_few_bits_is_stored_as_loading_stores_it():
    subject = Subject(TINY, CPU, 4)
    assert torch.uint8 in {weight.dtype for weight in subject.family.modules()["transformer"].parameters()}
    assert {one.id: one.value for one in measured(subject, QUANTISED, None)}["flux_1024_4bit_gradients_reach"]


def test_fewer_bits_are_predicted_to_take_less():
    assert predicted(QUANTISED, TINY).peak_bytes < predicted(PLANS[1], TINY).peak_bytes


def test_a_failing_section_leaves_the_figures_of_the_others(results):
    log = Log(CPU, "some")
    log.section("good", lambda: [figure("speed", 2.0)])

    def fails():
        yield figure("before", 1.0)
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    log.section("bad", fails)
    written = json.loads((results / "some.json").read_text())["figures"]
    assert [one["id"] for one in written] == ["device", "speed", "before", "bad_failed"]
    assert written[-1]["value"] == "RuntimeError: CUDA out of memory."
    assert log.value("speed") == 2 and log.value("bad") is None
