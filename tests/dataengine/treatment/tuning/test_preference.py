"""Localized preference in a treatment: it learns, resumes exactly, and is refused without pairs."""

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, Paused
from dataengine.treatment.config import (
    LoraSettings,
    PixelConfig,
    PreferenceConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.objectives.preference import PreferencePairs
from dataengine.treatment.tuning.estimate import preflight
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment.tiny import PROMPTS, SIDE, ToyDetector

CONFIG = TreatmentConfig(
    updates=3,
    batch=2,
    grad_steps=1,
    learning_rate=1e-2,
    offline=None,
    pixel=PixelConfig(weight=0.0),
    preference=PreferenceConfig(weight=0.5),
    sampling=SamplingConfig(steps=2, batch=4),
    lora=LoraSettings(rank=2, targets="all"),
)


def pairs(count=3, side=SIDE):
    rng = np.random.default_rng(0)
    winners = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    losers, masks = (
        [winner.copy() for winner in winners],
        [np.zeros((side, side), bool) for _ in range(count)],
    )
    for loser, mask in zip(losers, masks, strict=True):
        loser[8:16, 8:16] = 255
        mask[8:16, 8:16] = True
    return PreferencePairs(winners=winners, losers=losers, masks=masks, prompts=list(PROMPTS[:count]))


def run(folder, work, config=CONFIG, given=None, **named):
    family = load_family(folder)
    return family, treat(
        config, family, ToyDetector(), PROMPTS, None, [], None, work, pairs=given or pairs(), **named
    )


@pytest.mark.parametrize("folder", ["flux_folder", "sd_folder"])
def test_pairs_alone_train_the_lora(request, tmp_path, folder):
    _, result = run(request.getfixturevalue(folder), tmp_path)
    first = result.history[0]
    # Before the first update the generator is its own reference: −log σ(0).
    assert first["preference"] == pytest.approx(0.5 * np.log(2), rel=1e-4) == first["loss"]
    assert "pixel" not in first and all(row["grad_norm"] > 0 for row in result.history[:1])
    assert result.history[-1]["preference"] != pytest.approx(first["preference"], rel=1e-4)


def test_a_resumed_run_is_the_undisturbed_run(flux_folder, tmp_path):
    """Here every pair is beyond the margin by then, so that the rest of the run has no gradient."""
    whole, undisturbed = run(flux_folder, tmp_path / "whole")
    told = iter([False, True])
    with pytest.raises(Paused):
        run(flux_folder, tmp_path / "cut", pausing=lambda: next(told))
    family, resumed = run(flux_folder, tmp_path / "cut")
    losses = [[row["loss"] for row in each.history] for each in (resumed, undisturbed)]
    assert losses[0] == losses[1] and resumed.history[-1]["grad_norm"] == 0
    theirs = whole.adapter.parameters()
    assert all(torch.equal(weight, theirs[name]) for name, weight in family.adapter.parameters().items())


def test_pairs_of_other_sizes_go_beside_the_other_objectives(flux_folder, tmp_path):
    config = CONFIG.model_copy(update={"pixel": PixelConfig(), "updates": 1})
    _, result = run(flux_folder, tmp_path, config, pairs(2, side=2 * SIDE))
    row = result.history[0]
    assert row["loss"] == pytest.approx(row["pixel"] + row["preference"])


def test_the_estimate_counts_pairs_and_no_images(flux_folder):
    """Twice the batch with gradient and without: no decoder, no detector, no chain."""
    alone, beside = (
        preflight(CONFIG.model_copy(update={"pixel": PixelConfig(weight=weight)}), flux_folder)
        for weight in (0.0, 1.0)
    )
    pixels = preflight(CONFIG.model_copy(update={"pixel": PixelConfig(), "preference": None}), flux_folder)
    assert alone.flops + pixels.flops == pytest.approx(beside.flops)
    assert alone.saved_bytes > 0 and alone.activations_bytes < pixels.activations_bytes


def test_without_pairs_it_is_refused(flux_folder, tmp_path):
    nothing = PreferencePairs(winners=[], losers=[], masks=[], prompts=[])
    for given in (None, nothing):
        with pytest.raises(
            ConfigRefused, match="learns from pairs of a winner and a loser, but there are none"
        ):
            treat(
                CONFIG,
                load_family(flux_folder),
                ToyDetector(),
                PROMPTS,
                None,
                [],
                None,
                tmp_path,
                pairs=given,
            )
