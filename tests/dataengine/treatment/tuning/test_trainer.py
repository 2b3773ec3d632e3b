"""Treatment on tiny pipelines: it learns, resumes exactly, stops in time, and refuses what cannot work."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from dataengine.errors import Cancelled, ConfigRefused, NonFinite, NothingLearned, Paused
from dataengine.quality.config import GuardConfig
from dataengine.quality.guard import Guard
from dataengine.treatment.config import (
    LoraSettings,
    OfflineConfig,
    PixelConfig,
    RegionConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import draw, encode, generate
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment.tiny import PROMPTS, SIDE, ToyDetector

GUARD = GuardConfig(every=2, prompts=2, seeds=2, change=(0, 1), detail=(0, 9), diversity=(0, 9))
CONFIG = TreatmentConfig(
    updates=4,
    batch=2,
    grad_steps=1,
    learning_rate=1e-2,
    offline=OfflineConfig(gamma=0.001),
    sampling=SamplingConfig(steps=2, batch=4),
    lora=LoraSettings(rank=2, targets="all"),
    guard=GUARD,
    checkpoint_every=2,
)
GUARD_PROMPTS = ["a red tree", "a blue house"]
CLEAN = np.random.default_rng(0).integers(0, 256, size=(4, SIDE, SIDE, 3), dtype=np.uint8)


def run(folder, work, config=CONFIG, guard=True, clean=CLEAN, detector=None, **kwargs):
    family = load_family(folder)
    return family, treat(
        config,
        family,
        detector or ToyDetector(),
        PROMPTS,
        clean,
        list(PROMPTS)[: len(clean)] if clean is not None else [],
        Guard(config.guard, GUARD_PROMPTS) if guard else None,
        work,
        **kwargs,
    )


def numbers(result):
    """Every loss and gradient norm, exactly."""
    return [(row["update"], row["loss"], row["grad_norm"], row.get("guard")) for row in result.history]


@pytest.fixture(scope="module")
def undisturbed(flux_folder, tmp_path_factory):
    return run(flux_folder, tmp_path_factory.mktemp("undisturbed"))


def test_confidence_falls_and_the_best_is_kept(undisturbed, flux_folder):
    family, result = undisturbed
    looks = [row["guard"]["mean_confidence"] for row in result.history if "guard" in row]
    assert len(looks) == 2 and result.updates == 4 and result.stopped_reason == ""
    assert result.kept_step == 2 * (looks.index(min(looks)) + 1)
    assert result.figures["kept_confidence"] == min(looks)
    detector, guard = ToyDetector(), Guard(GUARD, GUARD_PROMPTS)

    def confidence(generator):
        images = generate(generator, guard.prompts, guard.seeds, CONFIG.sampling)
        return float(np.mean([detector.find_artifacts(image).mean() for image in images]))

    assert confidence(family) == pytest.approx(min(looks), abs=1e-5)
    assert confidence(family) < confidence(load_family(flux_folder)) - 1e-4
    assert confidence(load_family(flux_folder, lora=result.lora_folder)) == confidence(family)


def test_history_and_lora_are_written(undisturbed):
    _, result = undisturbed
    work = result.lora_folder.parent
    assert json.loads((work / "history.json").read_text()) == result.history
    written = {file.name for file in result.lora_folder.iterdir()}
    assert written == {"pytorch_lora_weights.safetensors", "comfyui_lora.safetensors"}
    first = result.history[0]
    assert first["loss"] == pytest.approx(first["pixel"] + first["offline"])
    assert result.figures["update_s"] > 0


def test_nothing_but_the_lora_changed(undisturbed, flux_folder):
    family, _ = undisturbed
    fresh, mine = load_family(flux_folder), family.adapter.parameters()
    for part, network in fresh.modules().items():
        trained = {
            name.replace(".base_layer", ""): weight
            for name, weight in family.modules()[part].named_parameters()
            if name not in mine
        }
        for name, weight in network.named_parameters():
            assert torch.equal(weight, trained[name]), f"{part}.{name}"


class Stop(Exception):
    """Raised in place of a kill."""


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_resumed_run_is_the_undisturbed_run(undisturbed, flux_folder, tmp_path, stop_at):
    def report(done, total, message="", **figures):
        if done == stop_at and figures:
            raise Stop

    with pytest.raises(Stop):
        run(flux_folder, tmp_path, report=report)
    family, result = run(flux_folder, tmp_path)
    assert numbers(result) == numbers(undisturbed[1])
    assert result.kept_step == undisturbed[1].kept_step
    theirs = undisturbed[0].adapter.parameters()
    assert all(torch.equal(weight, theirs[name]) for name, weight in family.adapter.parameters().items())


@pytest.mark.parametrize("first", [False, True])
def test_checkpointing_may_change_on_resume(undisturbed, flux_folder, tmp_path, first):
    """Gradients are the same; only memory and time differ."""
    told = iter([False, False, True])
    before, after = (CONFIG.model_copy(update={"checkpointing": on}) for on in (first, not first))
    with pytest.raises(Paused):
        run(flux_folder, tmp_path, before, pausing=lambda: next(told))
    _, result = run(flux_folder, tmp_path, after)
    pixels = [[row["pixel"] for row in each.history] for each in (result, undisturbed[1])]
    assert pixels[0] == pytest.approx(pixels[1], rel=1e-3)


def test_a_paused_run_goes_on_exactly(undisturbed, flux_folder, tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_every": 100})
    told = iter([False, False, True])
    with pytest.raises(Paused, match="after update 3"):
        run(flux_folder, tmp_path, config, pausing=lambda: next(told))
    _, result = run(flux_folder, tmp_path, config)
    assert numbers(result) == numbers(undisturbed[1])


def run_and_die(folder, work):
    """A run that is killed, as by the system, after its third update."""

    def report(done, total, message="", **figures):
        if done == 3 and figures:
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder, work, report=report)


def test_a_killed_process_is_resumed(undisturbed, flux_folder, tmp_path):
    child = multiprocessing.get_context("fork").Process(target=run_and_die, args=(flux_folder, tmp_path))
    child.start()
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    _, result = run(flux_folder, tmp_path)
    assert numbers(result) == numbers(undisturbed[1])


def test_a_finished_run_answers_again_without_working(flux_folder, tmp_path):
    config = CONFIG.model_copy(update={"updates": 2})
    _, first = run(flux_folder, tmp_path, config)
    _, second = run(flux_folder, tmp_path, config)
    assert numbers(first) == numbers(second) and "update_s" not in second.figures


def test_another_run_in_the_same_folder_is_refused(flux_folder, tmp_path):
    run(flux_folder, tmp_path, CONFIG.model_copy(update={"updates": 2}))
    run(flux_folder, tmp_path, CONFIG.model_copy(update={"updates": 3, "learning_rate": 1e-5}))
    with pytest.raises(ConfigRefused, match="other settings"):
        run(flux_folder, tmp_path, CONFIG.model_copy(update={"seed": 5}))


def test_stable_diffusion_is_treated_by_the_same_code(sd_folder, tmp_path):
    config = CONFIG.model_copy(update={"updates": 2, "sampling": SamplingConfig(steps=2, guidance=3.0)})
    family, result = run(sd_folder, tmp_path, config)
    assert family.name == "stable-diffusion" and result.updates == 2
    assert all(np.isfinite(row["loss"]) for row in result.history)


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel": PixelConfig(pixels="maximum")},
        {"pixel": PixelConfig(pixels="above"), "accumulation": 2},
        {"region": RegionConfig(form="rms"), "checkpointing": True},
        {"pixel": PixelConfig(weight=0.0)},
        {"sampling": SamplingConfig(steps=2, precision="bfloat16")},
    ],
)
def test_objectives_add_up(flux_folder, tmp_path, changes):
    config = CONFIG.model_copy(update={"updates": 1, **changes})
    _, result = run(flux_folder, tmp_path, config, guard=False)
    row = result.history[0]
    terms = {name: row[name] for name in ("pixel", "region", "offline") if name in row}
    assert row["loss"] == pytest.approx(sum(terms.values())) and row["grad_norm"] > 0
    assert ("region" in terms) == (config.region is not None)
    assert ("pixel" in terms) == (config.pixel.weight > 0)
    assert result.kept_step == 1


def test_accumulation_averages_batches(flux_folder, tmp_path):
    """One update over three batches, whose losses it averages."""
    seen = []

    class Counting(ToyDetector):
        def confidence(self, images):
            found = super().confidence(images)
            seen.append(float(found.mean()))
            return found

    config = CONFIG.model_copy(update={"updates": 1, "accumulation": 3})
    _, result = run(flux_folder, tmp_path, config, guard=False, detector=Counting())
    assert len(set(seen)) == 3
    assert result.history[0]["pixel"] == pytest.approx(float(np.mean(seen)), rel=1e-6)


class Explosive(ToyDetector):
    """Answers with something that is no number from the third batch on."""

    def __init__(self, what="value"):
        super().__init__()
        self.what, self.calls = what, 0

    def confidence(self, images):
        found = super().confidence(images)
        if images.requires_grad:
            self.calls += 1
            if self.calls == 3:
                poison = torch.tensor(float("inf") if self.what == "value" else 1e38)
                return found * poison if self.what == "value" else (found * poison) * poison.sqrt() * 1e-38
        return found


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_non_finite_value_stops_before_the_weights_change(flux_folder, tmp_path, what):
    with pytest.raises(NonFinite, match="at step 3") as caught:
        run(flux_folder, tmp_path, guard=False, detector=Explosive(what))
    assert caught.value.step == 3
    resumed = run(flux_folder, tmp_path, guard=False)[1]
    undisturbed = run(flux_folder, tmp_path / "other", guard=False)[1]
    assert numbers(resumed) == numbers(undisturbed)


def test_a_lora_that_no_gradient_reaches_is_noticed(flux_folder, tmp_path):
    class Blind(ToyDetector):
        def confidence(self, images):
            return super().confidence(images).detach() + 0 * images.sum()

    config = CONFIG.model_copy(update={"offline": None})
    with pytest.raises(NothingLearned, match="did not change the LoRA"):
        run(flux_folder, tmp_path, config, guard=False, detector=Blind())


def test_a_batch_where_no_pixel_counts_is_not_mistaken_for_that(flux_folder, tmp_path):
    nothing = PixelConfig(pixels="above", above=0.999)
    config = CONFIG.model_copy(update={"offline": None, "pixel": nothing})
    _, result = run(flux_folder, tmp_path, config, guard=False)
    assert result.updates == config.updates and {row["loss"] for row in result.history} == {0.0}


def test_the_guard_stops_a_collapsing_run_and_keeps_what_was_well(flux_folder, tmp_path):
    """Without regularisation and at a huge rate the toy collapses; two breaches in a row end it."""
    config = CONFIG.model_copy(
        update={
            "updates": 24,
            "learning_rate": 0.3,
            "offline": None,
            "guard": GuardConfig(every=2, prompts=2, seeds=2, change=(0, 0.08)),
        }
    )
    _, result = run(flux_folder, tmp_path, config)
    looks = [row for row in result.history if "guard" in row]
    assert result.updates < 24 and "quality guard stopped" in result.stopped_reason
    assert looks[-1]["guard"]["breaches"] and looks[-2]["guard"]["breaches"]
    well = [row for row in looks if not row["guard"]["breaches"]]
    assert result.kept_step in {0, *(row["update"] for row in well)}
    family = load_family(flux_folder, lora=result.lora_folder)
    guard = Guard(config.guard, GUARD_PROMPTS)
    guarded = encode(family, guard.prompts)
    with family.adapter.disabled():
        untreated = draw(family, guarded, guard.seeds, config.sampling)
    kept = draw(family, guarded, guard.seeds, config.sampling)
    assert guard.check(guard.baseline(untreated), kept).breaches == ()


def test_nothing_good_leaves_the_generator_as_it_was(flux_folder, tmp_path):
    """Where the very first look is a breach, update 0 is kept, which changes nothing."""
    config = CONFIG.model_copy(
        update={"learning_rate": 0.2, "guard": GuardConfig(every=1, prompts=1, seeds=2, change=(0, 1e-4))}
    )
    family, result = run(flux_folder, tmp_path, config)
    assert result.kept_step == 0 and result.updates == 2
    before = generate(load_family(flux_folder), PROMPTS[:1], [0], config.sampling)
    assert np.array_equal(generate(family, PROMPTS[:1], [0], config.sampling), before)


def test_a_treated_generator_is_treated_further(undisturbed, flux_folder, tmp_path):
    """The LoRA that the generator carries goes on learning, and is the guard's reference."""
    family = load_family(flux_folder, lora=undisturbed[1].lora_folder)
    before = {name: weight.clone() for name, weight in family.adapter.parameters().items()}
    guard = Guard(GUARD, ["a red tree"])
    result = treat(
        CONFIG.model_copy(update={"updates": 2}),
        family,
        ToyDetector(),
        PROMPTS,
        CLEAN,
        PROMPTS,
        guard,
        tmp_path,
    )
    after = family.adapter.parameters()
    assert list(after) == list(before)
    assert result.updates == 2 and load_family(flux_folder, lora=result.lora_folder).adapter.parameters()
    first = result.history[1]["guard"]["values"]["change"]
    assert first < 0.1
    if result.kept_step:
        assert any(not torch.equal(after[name], before[name]) for name in after)


def test_regularisation_pictures_of_other_sizes_are_fitted(flux_folder, tmp_path):
    rng = np.random.default_rng(0)
    clean = [rng.integers(0, 256, size=(h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (90, 50), (20, 64))]
    _, result = run(flux_folder, tmp_path, CONFIG.model_copy(update={"updates": 1}), guard=False, clean=clean)
    assert result.history[0]["offline"] > 0


def test_cancelling_ends_it(flux_folder, tmp_path):
    def report(done, total, message="", **figures):
        raise Cancelled("a person asked to stop")

    with pytest.raises(Cancelled):
        run(flux_folder, tmp_path, report=report)


def test_what_cannot_work_is_refused(flux_folder, tmp_path):
    with pytest.raises(ConfigRefused, match="artifact-free images"):
        run(flux_folder, tmp_path, clean=None)
    with pytest.raises(ConfigRefused, match="no prompts"):
        treat(CONFIG, load_family(flux_folder), ToyDetector(), [], CLEAN, PROMPTS, None, tmp_path)
    with pytest.raises(ValueError, match=r"exceeds sampling\.steps 5"):
        TreatmentConfig(grad_steps=9)
    with pytest.raises(ValueError, match="no objective is on"):
        TreatmentConfig(pixel=PixelConfig(weight=0.0), offline=None)
    assert OfflineConfig().gamma == 0.25


def test_a_distilled_generator_is_not_pulled_back_by_the_regularisation(flux_folder, tmp_path):
    def treated(work, config, clean=None):
        family = load_family(flux_folder)
        family.distilled = True
        captions = list(PROMPTS) if clean is not None else []
        return treat(config, family, ToyDetector(), PROMPTS, clean, captions, None, work)

    config = CONFIG.model_copy(update={"updates": 1})
    with pytest.warns(UserWarning, match=r"distilled to few steps, so the offline regularisation.* is off"):
        (row,) = treated(tmp_path / "off", config).history
    assert "offline" not in row and row["loss"] == row["pixel"]
    kept = config.model_copy(update={"offline_distilled": True})
    (row,) = treated(tmp_path / "kept", kept, CLEAN).history
    assert row["offline"] > 0
    own = config.model_copy(update={"offline": OfflineConfig(targets="own"), "updates": 2})
    first, second = treated(tmp_path / "own", own).history
    assert first["offline"] == 0 < second["offline"], "it begins as it was given, and no images are needed"
    alone = config.model_copy(update={"pixel": PixelConfig(weight=0)})
    with pytest.raises(ConfigRefused, match="give pixel a weight, or set offline_distilled"):
        treated(tmp_path / "alone", alone)


@pytest.mark.parametrize("truncation", ["last", "random", "single"])
def test_a_long_update_shows_that_it_lives(flux_folder, tmp_path, truncation):
    """Between two updates there are reports, in order, of forward and of backward steps."""
    told = []

    def report(done, total, message="", **figures):
        told.append((done, message, figures))

    config = CONFIG.model_copy(
        update={"grad_steps": 2, "accumulation": 2, "truncation": truncation, "updates": 3}
    )
    run(flux_folder, tmp_path, config, report=report)
    first = [done for done, message, figures in told if message == "treating" and 0 <= done < 1]
    assert len(first) > config.accumulation * config.sampling.steps, "the way back reports too"
    for update in range(config.updates):
        shares = [done for done, message, _ in told if message == "treating" and update <= done < update + 1]
        assert shares == sorted(shares) and shares[-1] < update + 1
        assert len({*shares}) >= 4
    assert all(isinstance(done, int) for done, _, figures in told if figures), (
        "figures belong to whole updates"
    )
    assert any(message.startswith("quality guard measurement, image") for _, message, _ in told)


def test_a_cancellation_ends_an_update_on_its_way_back(flux_folder, tmp_path):
    """An exception in a report reaches the caller unchanged, also through the backward pass."""
    import traceback

    seen = []

    def report(done, total, message="", **figures):
        if any(frame.name == "backward" for frame in traceback.extract_stack()):
            seen.append(done)
            raise Cancelled("stopped")

    with pytest.raises(Cancelled, match="stopped"):
        run(flux_folder, tmp_path, report=report)
    assert seen and 0 < seen[0] < 1
