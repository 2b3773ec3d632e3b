"""Published methods as settings of the one treatment, run on a tiny pipeline for an update or two."""

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, NothingLearned, OutOfMemory
from dataengine.treatment import presets
from dataengine.treatment.config import (
    LoraSettings,
    PixelConfig,
    RegionConfig,
    RewardConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import generate, predict_clean, sample
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.progress import set_weights
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment import tiny
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

SAMPLING = SamplingConfig(steps=3, batch=4)
SMALL = {
    "updates": 1,
    "batch": 2,
    "sampling": SAMPLING,
    "learning_rate": 1e-2,
    "lora": LoraSettings(rank=2, targets="all"),
}


@pytest.fixture(scope="module")
def violence(tmp_path_factory):
    return RewardConfig(
        location=str(tiny.classifier(tmp_path_factory.mktemp("violence"))), label="violent", weight=0.5
    )


@pytest.fixture(scope="module")
def liking(tmp_path_factory):
    return RewardConfig(kind="pickscore", location=str(tiny.clip(tmp_path_factory.mktemp("clip"))))


def small(config, **changes):
    tracked = min(config.grad_steps, 3)
    return config.model_copy(update={**SMALL, "grad_steps": tracked, **changes})


def run(folder, work, config, family=None, detector=None):
    family = family or load_family(folder)
    return family, treat(config, family, detector or ToyDetector(), PROMPTS, None, [], None, work)


def batches(folder, config, detector=None):
    family = load_family(folder)
    family.adapter.add(config.lora, seed=0)
    made = Batches(config, family, detector or ToyDetector(), PROMPTS, lambda: None)
    made.start_from(family.adapter.parameters())
    return made


def test_the_papers_settings():
    reward = RewardConfig(location="somewhere", label="plausible")
    doctor = presets.diffdoctor()
    assert (doctor.grad_steps, doctor.lora.rank, doctor.learning_rate) == (1, 16, 1e-4)
    assert doctor.offline.gamma == 0.25 and presets.diffdoctor(offline=False).offline is None
    draft = presets.draft(reward)
    assert (draft.grad_steps, draft.sampling.steps, draft.lora.rank, draft.decay) == (2, 50, 64, "sqrt")
    assert draft.pixel.weight == 0 and draft.rewards == (reward,) and draft.offline is None
    assert presets.align_prop(reward).grad_steps == 50
    assert presets.refl(reward).truncation == "single" and presets.refl(reward).sampling.steps == 40
    direct = presets.direct_align(reward)
    assert direct.truncation == "direct" and direct.pixel.weight == 0 and direct.rewards == (reward,)
    assert (direct.direct.lowest, direct.direct.highest, direct.direct.discount) == (0.5, 0.9, 3.0)
    assert presets.direct_align_on_detector().pixel.weight == 1
    pairs = presets.localized_preference()
    assert pairs.pixel.weight == 0 and pairs.offline is None and pairs.preference.beta == 2000
    fix = presets.focus_n_fix(reward)
    assert fix.region.beta == 1e-3 and fix.region.map == "detector"
    safe = presets.focus_n_fix_safety(reward)
    assert safe.region.beta == 5e-4 and safe.region.map == "saliency" and safe.rewards[0].goal == "lower"
    aligned = presets.focus_n_fix_misalignment(reward)
    assert aligned.region.map == "disagreement" and aligned.rewards[0].goal == "raise"
    first, second = presets.sequential(draft, fix)
    assert first.region is None and second.region.reference == "given" and second.region.beta == 1e-3
    assert presets.dreambooth().pixel.weight == 0 and presets.dreambooth().offline.gamma == 1
    assert presets.dreambooth().regularised(distilled=True), "schnell learns an instance too"


METHODS = {
    "draft": "DRaFT",
    "align_prop": "AlignProp",
    "refl": "ReFL",
    "direct_align": "Direct-Align",
    "focus_n_fix": "Focus-N-Fix",
    "focus_n_fix_safety": "Focus-N-Fix, safety",
    "focus_n_fix_misalignment": "Focus-N-Fix, misalignment",
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_raises_a_reward_asks_for_it(method):
    with pytest.raises(
        ConfigRefused, match=rf"^{METHODS[method]} raises the score of a reward.*name a scorer"
    ):
        getattr(presets, method)()


def test_a_reward_without_a_scorer_is_refused():
    with pytest.raises(ValueError, match="a reward needs a scorer: name a registered one"):
        RewardConfig(kind="pickscore", location="")


def test_the_detector_as_reward_has_a_beta_in_proportion():
    """The constraint costs the same share of what the reward can gain as in Focus-N-Fix's paper."""
    draft, fix = presets.draft_on_detector(), presets.focus_n_fix_on_detector()
    for config in (draft, fix):
        assert config.pixel == PixelConfig() and not config.rewards and config.offline is None
        assert (config.grad_steps, config.lora.rank, config.decay) == (2, 64, "sqrt")
    norm = (3 * 512**2) ** 0.5 * 10 ** (-21.61 / 20)
    papers_share = 1e-3 * norm / 1
    ours = fix.region.beta * norm / 0.0651
    assert draft.region is None and ours == pytest.approx(papers_share, rel=0.01) and ours < 0.1
    assert 1e-3 * norm / 0.0651 > 1, "with the paper's beta it would cost more than there is to gain"


@pytest.mark.parametrize("method", ["draft", "align_prop", "refl", "focus_n_fix"])
def test_rewards_are_raised(flux_folder, tmp_path, violence, liking, method):
    config = small(getattr(presets, method)(violence, liking))
    _, result = run(flux_folder, tmp_path, config)
    row = result.history[0]
    rewards = {name: value for name, value in row.items() if name.startswith("reward")}
    assert set(rewards) == {"reward 1 violent", "reward 2 pickscore"} and "pixel" not in row
    assert -0.5 < rewards["reward 1 violent"] < 0
    assert row["loss"] == pytest.approx(sum(rewards.values()) + row.get("region", 0.0))
    assert ("region" in row) == (method == "focus_n_fix") and row["grad_norm"] > 0


def test_draft_moves_the_score(flux_folder, tmp_path, violence):
    """The goal decides which way, on the prompts and noise that are trained on."""
    from dataengine.quality.scorers import ClassifierScorer

    scorer, seeds, scores = ClassifierScorer(violence.location, "violent"), list(range(8)), {}
    for goal in ("raise", "lower"):
        reward = violence.model_copy(update={"goal": goal})
        config = small(presets.draft(reward), updates=6, batch=4, decay="constant", grad_steps=3)
        family, _ = run(flux_folder, tmp_path / goal, config)
        scores[goal] = scorer.score(generate(family, PROMPTS * 2, seeds, SAMPLING), PROMPTS * 2)
    assert (scores["raise"] > scores["lower"]).mean() > 0.8


def test_safety_finds_its_regions_by_saliency(flux_folder, violence):
    config = small(presets.focus_n_fix_safety(violence))
    made = batches(flux_folder, config)
    heat = made._faults(torch.rand(2, 3, 32, 32), PROMPTS[:2])
    assert heat.shape == (2, 32, 32) and torch.equal(heat.amax((1, 2)), torch.ones(2))
    terms = made.terms(0, torch.Generator().manual_seed(0))
    assert terms["reward 1 violent"] > 0 and terms["region"] < 1e-5
    with pytest.raises(ValueError, match="saliency of rewards"):
        TreatmentConfig(region=RegionConfig(map="saliency"))


def test_misalignment_finds_its_regions_where_the_image_lowers_the_score(flux_folder, liking):
    """Half of the pixels lower this score by what they differ from their surroundings, half raise it."""
    made = batches(flux_folder, small(presets.focus_n_fix_misalignment(liking)))
    sign = torch.ones(3, 32, 32)
    sign[:, :, 16:] = -1

    class Halves:
        name = "halves"

        def reward(self, images, prompts):
            return (images * sign).sum((1, 2, 3))

    made.rewards = [Halves()]
    images = torch.full((1, 3, 32, 32), 0.4)
    images[..., 15:17, 8] = images[..., 15:17, 24] = 0.9
    heat = made._faults(images, PROMPTS[:1])
    assert heat[0, :, 16:].max() == 1 and heat[0, 16, 24] > 0.9 and heat[0, 15:17, 8].max() == 0
    with pytest.raises(ValueError, match="disagreement of rewards"):
        TreatmentConfig(region=RegionConfig(map="disagreement"))


def test_a_constant_reward_stops_the_run(flux_folder, liking):
    made = batches(flux_folder, small(presets.draft(liking)))

    class Constant:
        name = "constant"

        def reward(self, images, prompts):
            return torch.full((len(images),), 0.5)

    made._watched[0]._reward = Constant()
    with pytest.raises(NothingLearned, match="nothing to learn from it"):
        made.terms(0, torch.Generator().manual_seed(0))


def test_refl_judges_what_one_step_predicts(flux_folder):
    """The clean image of step `at`, whose gradient reaches the LoRA through that step alone."""
    family = load_family(flux_folder)
    family.adapter.add(LoraSettings(rank=2), seed=0)
    noise, conditioning = family.initial_latents([0, 1], family.size), family.encode_prompts(PROMPTS[:2])
    last = predict_clean(family, conditioning, noise, SAMPLING, 2)
    assert torch.allclose(last, sample(family, conditioning, noise, SAMPLING), atol=1e-5)
    early = predict_clean(family, conditioning, noise, SAMPLING, 0)
    assert early.requires_grad and not torch.allclose(early, last, atol=1e-3)
    with torch.no_grad():
        assert not predict_clean(family, conditioning, noise, SAMPLING, 0).requires_grad


def test_truncation_draws_how_far_the_gradient_reaches(flux_folder):
    config = small(presets.align_prop(RewardConfig(kind="clip", location="x")), rewards=())
    made, rng = batches(flux_folder, config), torch.Generator().manual_seed(0)
    conditioning, noise = made.prompts.rows([0]), made.family.initial_latents([0], made.size)
    assert {made._chain(conditioning, noise, rng).args[-1] for _ in range(30)} == {1, 2, 3}
    made.config = config.model_copy(update={"truncation": "single", "grad_steps": 2})
    assert {made._chain(conditioning, noise, rng).args[-1] for _ in range(30)} == {1, 2}


def test_sequential_tuning_keeps_what_the_first_run_won(flux_folder, tmp_path):
    """The second run's untreated images are those of the first run's generator."""
    config = small(presets.focus_n_fix_on_detector(), pixel=PixelConfig())
    first, second = presets.sequential(small(presets.draft_on_detector(), learning_rate=0.2), config)
    family, _ = run(flux_folder, tmp_path / "first", first)
    made = Batches(second, family, ToyDetector(), PROMPTS, lambda: None)
    weights = family.adapter.parameters()
    made.start_from(weights)
    given = {name: weight.detach().clone() for name, weight in weights.items()}
    before = generate(family, PROMPTS[:1], [0], SAMPLING)
    set_weights({name: weight + 0.3 for name, weight in given.items()}, weights)
    with made._untreated():
        assert np.array_equal(generate(family, PROMPTS[:1], [0], SAMPLING), before)
    assert not np.array_equal(generate(family, PROMPTS[:1], [0], SAMPLING), before)
    made.config = second.model_copy(update={"region": RegionConfig()})
    with made._untreated():
        base = generate(load_family(flux_folder), PROMPTS[:1], [0], SAMPLING)
        assert np.array_equal(generate(family, PROMPTS[:1], [0], SAMPLING), base)
    set_weights(given, weights)
    _, result = run(flux_folder, tmp_path / "second", second, family=family)
    assert result.history[0]["region"] < 1e-4


def test_the_step_size_decays_by_the_square_root(flux_folder, tmp_path):
    """AdamW's steps are about as long as its rate: at update 4 half of it."""
    moved = []
    for updates in (3, 4):
        config = small(presets.draft_on_detector(), updates=updates, learning_rate=1e-2, weight_decay=0.0)
        family, _ = run(flux_folder, tmp_path / str(updates), config)
        moved.append({name: w.detach().clone() for name, w in family.adapter.parameters().items()})
    steps = torch.cat([(moved[1][name] - moved[0][name]).abs().flatten() for name in moved[0]])
    assert float(steps.max()) == pytest.approx(0.5e-2, rel=0.5)


def test_offloading_changes_where_things_wait_and_nothing_else(flux_folder, tmp_path):
    config = small(presets.draft_on_detector(), updates=2)
    family, plain = run(flux_folder, tmp_path / "plain", config)
    offloaded = config.model_copy(update={"offload": ("text", "activations")})
    again, result = run(flux_folder, tmp_path / "offloaded", offloaded)
    assert [row["loss"] for row in result.history] == [row["loss"] for row in plain.history]
    theirs = family.adapter.parameters()
    assert all(torch.equal(weight, theirs[name]) for name, weight in again.adapter.parameters().items())


def test_prompts_beyond_the_limit_are_cut_with_a_warning(flux_folder, tmp_path):
    config = small(presets.draft_on_detector())
    long = "a red house on a mat " * 20
    with pytest.warns(UserWarning, match=r"truncates 1 prompts beyond its limit: 'a red house on"):
        treat(config, load_family(flux_folder), ToyDetector(), [*PROMPTS, long], None, [], None, tmp_path)


def test_a_detector_of_another_size_is_refused(flux_folder, tmp_path):
    class Fixed(ToyDetector):
        def confidence(self, images):
            return super().confidence(images).reshape(-1, 64, 64)

    class Coarse(ToyDetector):
        def confidence(self, images):
            return super().confidence(images)[:, ::4, ::4]

    with pytest.raises(ConfigRefused, match=r"support the generator's 32×32 pixels.*shape"):
        run(flux_folder, tmp_path, small(presets.draft_on_detector()), detector=Fixed())
    with pytest.raises(ConfigRefused, match=r"its output has shape \(2, 8, 8\)"):
        run(flux_folder, tmp_path, small(presets.draft_on_detector()), detector=Coarse())


def test_out_of_memory_says_what_needs_less_and_keeps_the_checkpoint(flux_folder, tmp_path):
    class Greedy(ToyDetector):
        asked = 0

        def confidence(self, images):
            Greedy.asked += 1
            if Greedy.asked == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return super().confidence(images)

    config = small(presets.draft_on_detector(), updates=4, checkpoint_every=1)
    with pytest.raises(OutOfMemory, match=r"Estimated need .* GB.*checkpointing"):
        run(flux_folder, tmp_path, config, detector=Greedy())
    _, resumed = run(flux_folder, tmp_path, config)
    _, undisturbed = run(flux_folder, tmp_path / "other", config)
    losses = [[row["loss"] for row in result.history] for result in (resumed, undisturbed)]
    # Resumed with checkpointing, which rounds differently.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
