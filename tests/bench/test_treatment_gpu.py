"""The GPU bench of treatment proves itself with small networks on the processor."""

import importlib.util
import json
import sys
import time

import pytest
import torch

from tests.bench import gpu_networks, treatment_gpu
from tests.bench.gpu_networks import PLANS, TINY, Subject, measured, predicted
from tests.bench.treatment_gpu import PARTS, known_figures, run_group, run_parts

CPU = torch.device("cpu")
QUANTISED = PLANS[-1]


def test_weights_are_drawn_as_trained_ones_are_stored():
    subject = Subject(TINY, CPU, None)
    transformer, vae = (subject.family.modules()[name] for name in ("transformer", "vae"))
    assert {weight.dtype for weight in vae.parameters()} == {torch.float32}
    drawn = [weight for name, weight in transformer.named_parameters() if "lora" not in name]
    assert {weight.dtype for weight in drawn} == {torch.bfloat16}
    large = max(drawn, key=torch.numel).float()
    assert 0.01 < large.std() < 0.03 and abs(large.mean()) < 0.001


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_base_in_few_bits_is_stored_as_loading_stores_it():
    subject = Subject(TINY, CPU, 4)
    assert torch.uint8 in {weight.dtype for weight in subject.family.modules()["transformer"].parameters()}
    assert {one.id: one.value for one in measured(subject, QUANTISED, None)}["flux_1024_4bit_gradients_reach"]


def test_fewer_bits_are_predicted_to_take_less():
    assert predicted(QUANTISED, TINY).peak_bytes < predicted(PLANS[1], TINY).peak_bytes


def test_every_part_runs_at_small_size_on_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_networks, "UPDATES", 1)
    monkeypatch.setattr(gpu_networks, "WARM_UP", 2)
    names = [part.name for part in PARTS if part.group not in ("4-bit", "predicted")]
    assert run_parts(names, tmp_path, TINY, CPU)
    assert {file.stem for file in tmp_path.glob("*.json")} == set(names)
    figures = {one.id: one.value for one in known_figures(tmp_path)}
    finite = {name: value for name, value in figures.items() if name.endswith("_finite")}
    assert len(finite) >= 10 and all(finite.values()), finite
    assert figures["flux_512_gradients_reach"] is True
    assert figures["flux_512_step_s"] > figures["flux_512_forward_s"] > 0
    assert figures["flux_512_finishes"] and figures["flux_1024_finishes"]
    assert figures["vae_512_s"] > 0 and figures["denoiser_512_math_s"] > 0
    # Kinds of attention that a processor does not have are said, and end nothing.
    assert "No viable backend" in figures["denoiser_512_cudnn_failed"]


CHILD = """
import json, os, signal, sys
from pathlib import Path
out, names = Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[sys.argv.index("--run") + 1 : -2]
blocking = os.environ.get("CUDA_LAUNCH_BLOCKING")
def figure(id, value):
    note = "line 5" if blocking else ""
    return {"id": id, "value": value, "interval": None, "unit": "", "n": 1, "note": note}
for name in names:
    (out / f"{name}.started").write_text("")
    with open(out / "begun", "a") as log:
        log.write(name + "\\n")
    rows = [figure(f"{name}_s", 1.0)]
    if name == "vae_512_math":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "vae_512_efficient":
        rows = [figure(f"{name}_failed", "CUDA error: an illegal memory access was encountered")]
    (out / f"{name}.json").write_text(json.dumps(rows))
    if name == "vae_512_efficient":
        sys.exit(1)
"""


def test_a_crash_is_looked_at_alone_and_does_not_end_the_other_parts(tmp_path):
    command = [sys.executable, "-c", CHILD]
    run_group("vae", tmp_path, command, time.monotonic() + 60)
    figures = {one.id: one for one in known_figures(tmp_path)}
    assert figures["vae_1024_s"].value == 1.0 and figures["vae_512_s"].value == 1.0
    assert figures["vae_512_math_failed"].value == "its process ended by signal SIGSEGV"
    assert figures["vae_512_math_blocking"].value == "its process ended by signal SIGSEGV"
    assert "illegal memory access" in figures["vae_512_efficient_failed"].value
    assert figures["vae_512_efficient_failed_blocking"].note == "line 5"
    begun = (tmp_path / "begun").read_text().split()
    assert begun == [part.name for part in PARTS if part.group == "vae"], "each once"
    run_group("vae", tmp_path, command, time.monotonic() + 60)
    assert (tmp_path / "begun").read_text().split() == begun, "what is done is not run again"


def test_a_part_that_hangs_is_killed_and_nothing_begins_after_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(treatment_gpu, "LONGEST", 0.5)
    hanging = CHILD.replace("os.kill(os.getpid(), signal.SIGSEGV)", "signal.pause()")
    run_group("vae", tmp_path, [sys.executable, "-c", hanging], time.monotonic() + 60)
    figures = {one.id: one.value for one in known_figures(tmp_path)}
    assert figures["vae_512_math_failed"] == "its process took too long and was killed"
    assert figures["vae_1024_s"] == 1.0
    run_group("detector", tmp_path, [sys.executable, "-c", CHILD], time.monotonic())
    assert not (tmp_path / "detector_512.json").exists()


def test_a_failed_plan_does_not_finish(tmp_path):
    treatment_gpu.keep(tmp_path, "flux_512", [treatment_gpu.failed("flux_512", RuntimeError("no room"))])
    figures = {one.id: one.value for one in known_figures(tmp_path)}
    assert figures["flux_512_failed"] == "RuntimeError: no room" and figures["flux_512_finishes"] is False
    assert json.loads((tmp_path / "flux_512.json").read_text())[0]["id"] == "flux_512_failed"


def test_measured_figures_are_compared_with_the_predicted_ones():
    known = {
        "product_rate": 100.0,
        "flux_512_predicted_peak_gb": 28.0,
        "flux_512_predicted_tflop": 133.0,
        "flux_512_peak_gb": 25.0,
        "flux_512_step_s": 2.66,
    }
    figures = {one.id: one.value for one in gpu_networks.compared(PLANS[0], known)}
    assert figures == {
        "flux_512_predicted_over_peak": pytest.approx(1.12),
        "flux_512_rate_share": pytest.approx(0.5),
    }
    assert list(gpu_networks.compared(PLANS[1], known)) == []
