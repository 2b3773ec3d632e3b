"""The order of the prompts, which a killed run keeps, and the detector as treatment uses it."""

import pytest
import torch

from dataengine.diagnosis.detector import NetworkDetector
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.tuning import batches
from dataengine.treatment.tuning.batches import Batches, shuffled_rows
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.diagnosis.tiny import SEGFORMER
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

TEXTS = [*PROMPTS, "a house", "a red tree", "two trees"]
CONFIG = TreatmentConfig(
    updates=5,
    batch=2,
    accumulation=2,
    grad_steps=1,
    sampling=SamplingConfig(steps=1, batch=4),
    offline=None,
    lora=LoraSettings(rank=2),
    checkpoint_every=2,
)


@pytest.mark.parametrize(("count", "length"), [(1, 3), (5, 2), (7, 7), (7, 16), (12, 5)])
@pytest.mark.parametrize("seed", [0, 3])
def test_every_pass_holds_every_row_once_in_a_new_order(count: int, length: int, seed: int) -> None:
    total = 6 * count * length
    rows = [row for start in range(0, total, length) for row in shuffled_rows(count, start, length, seed)]
    passes = [tuple(rows[at : at + count]) for at in range(0, total, count)]
    assert all(sorted(one) == list(range(count)) for one in passes)
    assert rows == shuffled_rows(count, 0, total, seed), "however they are cut into batches"
    if count >= 5:
        assert len(set(passes)) > 0.9 * len(passes) and rows != shuffled_rows(count, 0, total, seed + 1)


class Stop(Exception):
    """Raised in place of a kill."""


def stop_after(update):
    """A report that ends the run there."""

    def report(done, total, message="", **figures):
        if done == update and figures:
            raise Stop

    return report


@pytest.fixture
def generated(monkeypatch):
    """The prompts of every batch that is generated, in order."""
    seen, kept = [], batches.GeneratedBatch
    monkeypatch.setattr(
        batches, "GeneratedBatch", lambda **parts: (seen.append(parts["prompts"]), kept(**parts))[1]
    )
    return seen


def run(folder, work, seen, config=CONFIG, **named):
    """The batches of a run."""
    before = len(seen)
    treat(config, load_family(folder), ToyDetector(), TEXTS, None, [], None, work, **named)
    return seen[before:]


def test_a_run_passes_over_all_prompts_and_resumes_in_the_same_order(flux_folder, tmp_path, generated):
    whole = run(flux_folder, tmp_path / "whole", generated)
    flat = [text for batch in whole for text in batch]
    assert len(flat) == CONFIG.updates * CONFIG.accumulation * CONFIG.batch == 20
    assert sorted(flat[:7]) == sorted(flat[7:14]) == sorted(TEXTS) and flat[:7] != flat[7:14]
    generated.clear()
    with pytest.raises(Stop):
        run(flux_folder, tmp_path / "killed", generated, report=stop_after(3))
    assert generated == whole[:6]
    assert run(flux_folder, tmp_path / "killed", generated) == whole[4:], "from the checkpoint at update 2"
    other = run(flux_folder, tmp_path / "other", generated, CONFIG.model_copy(update={"seed": 1}))
    assert other != whole


def test_treatment_sees_through_an_antialiasing_detector(flux_folder):
    """For its loss and for its regions; the detector that was given predicts as before."""
    detector = NetworkDetector.fresh(SEGFORMER.model_copy(update={"antialias": False, "size": 16}), seed=1)
    images = torch.rand((2, 3, 100, 100), generator=torch.Generator().manual_seed(0))
    made = Batches(CONFIG, load_family(flux_folder), detector, TEXTS, lambda: None)
    assert not made.detector.training and not detector.network.training
    assert not any(one.requires_grad for one in detector.parameters())
    sharp = NetworkDetector(detector.config.model_copy(update={"antialias": True}), detector.network).eval()
    assert torch.equal(made.detect(images), sharp.confidence(images))
    assert not torch.allclose(made.detect(images), detector.confidence(images), atol=1e-4)
