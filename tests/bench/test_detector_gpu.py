"""The card's bench on a processor: every section gives its figures, and one that fails leaves the rest."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.diagnosis.config import DetectorConfig
from tests.bench import detector_gpu, harness

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "hidden_sizes": [4, 4, 8, 8],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 8,
}
PLAN = replace(
    detector_gpu.tiny_plan("cpu"),
    detector=DetectorConfig(name="small", segformer=SMALL, size=32),
    side=32,
    backend="eager",
)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    return tmp_path


def test_every_section_gives_its_figures(results: Path) -> None:
    found = {one.id: one for one in detector_gpu.measure(PLAN)}
    assert not [id for id in found if id.endswith("_failed")], found
    assert found["gpu_fp16_trains"].value is True
    for id in ("gpu_train_b2_per_s", "gpu_infer_b4_matmul_share", "gpu_maps_per_s", "gpu_compile_gain"):
        assert float(found[id].value) > 0
    assert (results / "detector_gpu.json").is_file()


def test_a_section_that_fails_leaves_the_rest() -> None:
    found = detector_gpu.measure(replace(PLAN, backend="no such"), only=["compiled", "matrices"])
    assert [one.id for one in found] == ["compiled_failed", "gpu_matmul_tflops"]


def test_compiling_is_given_up_in_time() -> None:
    with pytest.raises(detector_gpu.TooLong, match="given up"), detector_gpu.at_most(0.05):
        while True:
            pass


def test_it_needs_no_catalog() -> None:
    absent = (
        "sqlalchemy",
        "alembic",
        "dbos",
        "gradio",
        "fastapi",
        "diffusers",
        "peft",
        "storage",
        "pipelines",
    )
    code = f"import sys, tests.bench.detector_gpu; print(*[m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
