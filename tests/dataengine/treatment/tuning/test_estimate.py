"""The estimator against what really happens on tiny pipelines."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dataengine.errors import out_of_memory
from dataengine.treatment.config import LoraSettings, RegionConfig, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.objectives.pixel import all_pixels
from dataengine.treatment.sampling.sampler import sample
from dataengine.treatment.tuning.estimate import (
    Ledger,
    Rates,
    measure_rates,
    preflight,
    stored_bits,
)
from dataengine.treatment.tuning.moments import advice
from tests.dataengine.treatment import tiny

CONFIG = TreatmentConfig(
    batch=3,
    grad_steps=2,
    offline=None,
    sampling=SamplingConfig(steps=4, guidance=3.0),
    lora=LoraSettings(rank=2),
)


@pytest.fixture(scope="module", params=["flux", "sd", "sdxl"])
def folder(request, tmp_path_factory):
    build = {"flux": tiny.flux, "sd": tiny.stable_diffusion, "sdxl": tiny.stable_diffusion_xl}
    return build[request.param](tmp_path_factory.mktemp(request.param))


def predicted(folder, config=CONFIG, **kwargs):
    return preflight(config, folder, tiny.ToyDetector(), **kwargs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_and_operations_are_those_of_a_real_update(folder, checkpointing):
    family, detector = load_family(folder), tiny.ToyDetector()
    family.adapter.add(CONFIG.lora, seed=0)
    if checkpointing:
        family.use_checkpointing()
    conditioning = family.encode_prompts(tiny.PROMPTS[:3])
    noise = family.initial_latents([0, 1, 2], family.size)

    def update():
        images = family.decode(sample(family, conditioning, noise, CONFIG.sampling, CONFIG.grad_steps))
        all_pixels(detector.confidence(images)).backward()

    # One after the other: the counter keeps what checkpointing recomputes.
    with FlopCounterMode(display=False) as flops:
        update()
    with Ledger() as ledger:
        update()
    found = predicted(folder, CONFIG.model_copy(update={"checkpointing": checkpointing}))
    assert found.activations_bytes == pytest.approx(ledger.peak, rel=0.15)
    assert ledger.flops == flops.get_total_flops()
    assert found.flops == pytest.approx(ledger.flops, rel=0.1)
    assert found.calls == pytest.approx(ledger.calls, rel=0.15)
    networks = [*family.modules().values(), detector]
    stored = sum(w.numel() * w.element_size() for net in networks for w in net.parameters())
    matrices = sum(w.numel() for w in family.adapter.parameters().values())
    assert found.weights_bytes == stored + matrices * 12


def test_what_costs_and_what_saves(flux_folder):
    folder = flux_folder
    plain = predicted(folder)
    middle, long = (
        predicted(folder, CONFIG.model_copy(update={"sampling": SamplingConfig(steps=steps, guidance=3.0)}))
        for steps in (22, 40)
    )
    assert long.peak_bytes == plain.peak_bytes and long.saved_bytes == plain.saved_bytes
    assert long.flops - middle.flops == middle.flops - plain.flops > 0
    region = predicted(folder, CONFIG.model_copy(update={"region": RegionConfig()}))
    assert region.flops > plain.flops and region.peak_bytes == plain.peak_bytes
    for change in ({"checkpointing": True}, {"offload": ("text", "activations")}, {"grad_steps": 1}):
        assert predicted(folder, CONFIG.model_copy(update=change)).peak_bytes < plain.peak_bytes
    small = predicted(folder, bits=4)
    assert small.weights_bytes < plain.weights_bytes


def test_advice_names_what_needs_less(flux_folder):
    said = advice(CONFIG, load_family(flux_folder))
    assert "checkpointing (" in said and "GB" in said and "4-bit" in said


def test_a_base_in_few_bits_is_known_and_not_advised(flux_folder):
    family = load_family(flux_folder)
    full = preflight(CONFIG, family).weights_bytes
    family.modules()["transformer"].is_loaded_in_4bit = True
    assert preflight(CONFIG, family).weights_bytes < full
    assert stored_bits(family, None) == 4 and stored_bits(flux_folder, 4) == 4
    said = advice(CONFIG, flux_folder, torch.bfloat16, 4)
    assert "checkpointing (" in said and "4-bit" not in said


def test_rates_and_words():
    rates = measure_rates()
    assert rates.flops_per_s > 1e8 and 0 < rates.seconds_per_call < 1e-2
    found = predicted_toy()
    assert found.seconds(Rates(flops_per_s=found.flops)) == pytest.approx(1)
    assert "GB at the peak" in found.text() and found.text(rates).endswith(" s")


def predicted_toy():
    from dataengine.treatment.tuning.estimate import Estimate

    return Estimate(weights_bytes=1, activations_bytes=2, flops=3.0, calls=0, saved_bytes=1)


def test_out_of_memory_is_recognised():
    assert out_of_memory(torch.OutOfMemoryError("x")) and out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not out_of_memory(RuntimeError("shapes differ"))
