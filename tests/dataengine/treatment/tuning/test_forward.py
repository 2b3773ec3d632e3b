"""DiffusionNFT and NormGuard within a treatment of tiny pipelines."""

import pytest
import torch

from dataengine.errors import NothingLearned, Paused
from dataengine.quality.config import GuardConfig
from dataengine.quality.guard import Guard
from dataengine.treatment.config import (
    LoraSettings,
    NftConfig,
    NormConfig,
    PixelConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.tuning import forward
from dataengine.treatment.tuning.estimate import Ledger, preflight
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

CONFIG = TreatmentConfig(
    updates=3,
    batch=4,
    grad_steps=1,
    learning_rate=1e-2,
    pixel=PixelConfig(weight=0),
    nft=NftConfig(group=2, rate=0.2),
    norm=NormConfig(),
    offline=None,
    sampling=SamplingConfig(steps=2, batch=4),
    lora=LoraSettings(rank=2, targets="all"),
    guard=GuardConfig(every=1, prompts=2, change=(0, 1), detail=(0, 9), diversity=(0, 9), norm=(-1, 1)),
)


class Blunt(ToyDetector):
    """A detector without gradient."""

    @torch.no_grad()
    def confidence(self, images):
        return super().confidence(images)


class Same(ToyDetector):
    """The same confidence everywhere, but in the batches named."""

    def __init__(self, telling=()):
        super().__init__()
        self.calls, self.telling = 0, telling

    def confidence(self, images):
        self.calls += 1
        return (
            super().confidence(images) if self.calls in self.telling else torch.full_like(images[:, 0], 0.2)
        )


def run(folder, work, detector=None, guard=False, **changes):
    pausing = changes.pop("pausing", lambda: False)
    config = CONFIG.model_copy(update=changes)
    family = load_family(folder)
    watch = Guard(config.guard, PROMPTS) if guard else None
    return family, treat(config, family, detector or Blunt(), PROMPTS, None, [], watch, work, pausing=pausing)


@pytest.fixture(scope="module")
def undisturbed(flux_folder, tmp_path_factory):
    return run(flux_folder, tmp_path_factory.mktemp("undisturbed"), guard=True)


def test_a_detector_without_gradient_suffices(undisturbed):
    first, *_, last = undisturbed[1].history
    assert first["nft"] > 0 and first["grad_norm"] > 0 and first["nft_constant"] == 0
    # Before the first update nothing has moved away from the generator as given.
    assert first["nft_kl"] == first["norm"] == 0 < last["nft_kl"]
    assert first["guard"]["values"]["norm"] != 0


def test_a_resumed_run_is_the_undisturbed_one(undisturbed, flux_folder, tmp_path):
    """The old policy is kept: it differs from the trained weights here."""
    with pytest.raises(Paused):
        run(flux_folder, tmp_path, guard=True, pausing=lambda: True)
    with pytest.raises(Paused):
        run(flux_folder, tmp_path, guard=True, pausing=lambda: True)
    family, result = run(flux_folder, tmp_path, guard=True)
    assert result.history == undisturbed[1].history
    theirs = undisturbed[0].adapter.parameters()
    assert all(torch.equal(weight, theirs[name]) for name, weight in family.adapter.parameters().items())


def test_one_image_at_a_time_is_the_same_update(undisturbed, flux_folder, tmp_path):
    _, apart = run(flux_folder, tmp_path, updates=1, checkpointing=True)
    whole = undisturbed[1].history[0]
    for name in ("nft", "grad_norm", "nft_reward"):
        assert apart.history[0][name] == pytest.approx(whole[name], rel=1e-3)


def test_noise_prediction_learns_by_the_same_code(sd_folder, tmp_path):
    nft = NftConfig(group=2, cells=False, reward="maximum", at="uniform", kl=0)
    _, result = run(sd_folder, tmp_path, updates=1, nft=nft, norm=None)
    assert result.history[0]["grad_norm"] > 0 and "nft_kl" not in result.history[0]


def test_a_constant_batch_is_counted_and_changes_nothing(flux_folder, tmp_path):
    _, result = run(flux_folder, tmp_path, Same(telling=(2,)), updates=2, norm=None)
    assert [row["nft_constant"] for row in result.history] == [1, 0]
    assert result.history[0]["grad_norm"] == 0 < result.history[1]["grad_norm"]


def test_constant_rewards_are_refused(flux_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "PATIENCE", 2)
    with pytest.raises(NothingLearned, match="nothing to learn"):
        run(flux_folder, tmp_path, Same(), norm=None)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch": 3}, "no multiple"),
        ({"nft": NftConfig(group=2, cells=False, reward="scorers")}, "no rewards"),
        ({"nft": NftConfig(group=2, times=3)}, "exceeds"),
        ({"nft": NftConfig(group=2, weight=0)}, "no objective"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, match):
    settings = {name: getattr(CONFIG, name) for name in TreatmentConfig.model_fields}
    with pytest.raises(ValueError, match=match):
        TreatmentConfig(**settings | changes)
    with pytest.raises(ValueError, match="one value per image"):
        NftConfig(reward="scorers")


def test_the_preflight_counts_it(flux_folder, tmp_path):
    config = CONFIG.model_copy(update={"norm": None})
    detector, family = Blunt(), load_family(flux_folder)
    found = preflight(config, flux_folder, detector)
    family.adapter.add(config.lora, seed=0)
    batches = forward.Batches(config, family, detector, PROMPTS, lambda: None)
    weights = family.adapter.parameters()
    batches.start_from(weights)
    process = forward.ForwardProcess(config, batches, weights, {})
    with Ledger() as ledger:
        for piece in process.pieces(0, torch.Generator().manual_seed(0)):
            torch.stack(list(piece().values())).sum().backward()
    assert found.flops == pytest.approx(ledger.flops, rel=0.1)
    assert found.activations_bytes == pytest.approx(ledger.peak, rel=0.25)
