import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.diagnosis import training
from dataengine.diagnosis.config import DetectorTrainingConfig, LossConfig, PseudoTargetConfig
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector, load_detector, save_detector
from dataengine.diagnosis.evaluation import evaluate_detector, measure_detector
from dataengine.diagnosis.training import (
    TrainingResult,
    average_decay,
    collate,
    move_average,
    parameter_groups,
    pseudo_targets,
    rate_factor,
    step_seed,
    train_detector,
)
from dataengine.errors import Cancelled, ConfigRefused, InputRefused, NonFinite, Paused
from tests.dataengine.diagnosis.tiny import SEGFORMER, UNET, example, examples

CONFIG = DetectorTrainingConfig(
    detector=SEGFORMER, name="trained", steps=10, batch=8, lr=1e-3, checkpoint_every=3, device="cpu", seed=3
)


def stopping_at(step: int) -> Callable[..., None]:
    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        if message == "training" and done == step:
            raise Cancelled("asked to stop")

    return report


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    work = tmp_path_factory.mktemp("undisturbed")
    return train_detector(CONFIG, examples(), None, work, validation=examples(12))


def test_pseudo_targets_by_hand() -> None:
    maps = torch.tensor([[[0.0, 0.3, 0.45, 0.7, 0.9]]])
    soft, counted = pseudo_targets(maps, PseudoTargetConfig())
    assert torch.equal(soft, maps) and counted.all()
    hard, counted = pseudo_targets(maps, PseudoTargetConfig(form="thresholded", leave_out=(0.3, 0.7)))
    assert hard.flatten().tolist() == [0, 0, 0, 1, 1]
    assert counted.flatten().tolist() == [1, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="leave_out"):
        PseudoTargetConfig(leave_out=(0.7, 0.3))


def test_the_band_moves_with_the_augmented_map_and_touches_pseudo_labels_alone() -> None:
    map_ = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    image = np.repeat((map_ * 255).astype(np.uint8)[..., None], 3, axis=2)
    chunk = [Sample(image=image, target=map_, kind=kind) for kind in ("pseudo", "true", "pseudo")]
    band = PseudoTargetConfig(leave_out=(0.25, 0.75))
    batch = collate(chunk, 32, CONFIG.model_copy(update={"pseudo": band}), 5)
    assert batch.counted[1].all() and not batch.counted[[0, 2]].all()
    undecided = (batch.targets > 0.25) & (batch.targets < 0.75)
    assert torch.equal(batch.counted[[0, 2]] == 0, undecided[[0, 2]])


def test_the_rate_warms_up_and_decays() -> None:
    factors = [rate_factor(step, 100, 0.1, 1.0) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[10] == 1 and factors[55] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.02 and all(np.diff(factors[10:]) < 0)
    assert rate_factor(0, 100, 0.0, 1.0) == 1
    assert [rate_factor(step, 4, 0.0, 0.0) for step in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("config", "head"), [(SEGFORMER, "decode_head."), (UNET, ("decoder.", "segmentation_head."))]
)
def test_the_head_learns_ten_times_as_fast_and_norms_do_not_decay(config: Any, head: Any) -> None:
    detector = NetworkDetector.fresh(config)
    names = {id(parameter): name for name, parameter in detector.network.named_parameters()}
    groups = parameter_groups(detector, CONFIG)
    seen = 0
    for group in groups:
        for parameter in group["params"]:
            of_head = names[id(parameter)].startswith(head)
            assert group["lr"] == pytest.approx(1e-2 if of_head else 1e-3)
            assert (group["weight_decay"] == 0) == (parameter.ndim <= 1)
            seen += 1
    assert seen == len(names) and len(groups) == 4


def test_the_average_follows_and_counters_are_copied() -> None:
    average = {"w": torch.tensor([0.0]), "n": torch.tensor(1)}
    move_average(average, {"w": torch.tensor([1.0]), "n": torch.tensor(5)}, 0.75)
    assert average["w"].item() == 0.25 and average["n"].item() == 5
    assert average_decay(0.999, 0) == pytest.approx(0.1) and average_decay(0.999, 10**6) == 0.999
    assert average_decay(0.0, 50) == 0


def test_training_learns_what_it_is_shown(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 60, "batch": 16, "lr": 3e-3, "ema": 0.9})
    result = train_detector(config, examples(), None, tmp_path, validation=examples())
    assert len(result.losses) == 60
    assert np.mean(result.losses[-5:]) < 0.6 * np.mean(result.losses[:5])
    blank = float(np.mean([np.mean(example(i).target ** 2) for i in range(48)]))
    assert result.metrics["mse"] < 0.8 * blank


def test_the_result_is_a_frozen_detector_folder(undisturbed: TrainingResult) -> None:
    detector = load_detector(undisturbed.folder)
    assert detector.name == "trained"
    assert evaluate_detector(detector, examples(12)).mse == pytest.approx(
        undisturbed.metrics["mse"], abs=1e-7
    )
    assert not list(undisturbed.folder.parent.glob("checkpoint-*"))


def test_asked_again_a_finished_run_answers_without_training(undisturbed: TrainingResult) -> None:
    again = train_detector(CONFIG, examples(), None, undisturbed.folder.parent, report=stopping_at(1))
    assert again == undisturbed


def test_killed_and_resumed_it_gives_the_same_losses_and_weights(
    undisturbed: TrainingResult, tmp_path: Path
) -> None:
    program = f"""
import os, signal, torch
from pathlib import Path
from dataengine.diagnosis.training import train_detector
from tests.dataengine.diagnosis.test_training import CONFIG
from tests.dataengine.diagnosis.tiny import examples
torch.manual_seed(99)
def report(done, total, message="", **figures):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
train_detector(CONFIG, examples(), None, Path({str(tmp_path)!r}), report)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [found.name for found in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000006"]
    torch.manual_seed(1)
    resumed = train_detector(CONFIG, examples(), None, tmp_path)
    assert resumed.losses == undisturbed.losses
    state = load_detector(resumed.folder).state_dict()
    for key, value in load_detector(undisturbed.folder).state_dict().items():
        assert torch.equal(state[key], value), key


def test_paused_between_checkpoints_it_goes_on_with_the_same_losses(
    undisturbed: TrainingResult, tmp_path: Path
) -> None:
    told = iter([False] * 7 + [True])
    with pytest.raises(Paused, match="after step 8"):
        train_detector(CONFIG, examples(), None, tmp_path, pausing=lambda: next(told))
    assert [found.name for found in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000008"]
    assert train_detector(CONFIG, examples(), None, tmp_path).losses == undisturbed.losses


def test_a_half_written_checkpoint_is_ignored(undisturbed: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train_detector(CONFIG, examples(), None, tmp_path, report=stopping_at(4))
    torn = tmp_path / "checkpoint-000000009.part"
    torn.mkdir()
    (torn / "network.safetensors").write_bytes(b"torn")
    assert train_detector(CONFIG, examples(), None, tmp_path).losses == undisturbed.losses


def test_a_folder_of_another_run_is_refused(undisturbed: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="a different config"):
        train_detector(CONFIG.model_copy(update={"lr": 1e-4}), examples(), None, undisturbed.folder.parent)
    with pytest.raises(Cancelled):
        train_detector(CONFIG, examples(), None, tmp_path, report=stopping_at(4))
    with pytest.raises(ConfigRefused, match="a different start and examples"):
        train_detector(CONFIG, examples(20), undisturbed.folder, tmp_path)


def test_a_run_from_before_a_setting_existed_goes_on(undisturbed: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train_detector(CONFIG, examples(), None, tmp_path, report=stopping_at(4))
    progress = tmp_path / "checkpoint-000000003" / "progress.json"
    kept = json.loads(progress.read_text())
    del kept["run"]["config"]["loss"], kept["run"]["config"]["flawed"]
    progress.write_text(json.dumps(kept))
    assert train_detector(CONFIG, examples(), None, tmp_path).losses == undisturbed.losses
    other = CONFIG.model_copy(update={"loss": LossConfig(dice=0.5)})
    with pytest.raises(ConfigRefused, match="a different config"):
        train_detector(other, examples(), None, tmp_path)


def test_the_loss_of_a_run_is_the_one_of_its_settings(undisturbed: TrainingResult, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 1, "loss": LossConfig(squared=2.0)})
    twice = train_detector(config, examples(), None, tmp_path)
    assert twice.losses[0] == pytest.approx(2 * undisturbed.losses[0], rel=1e-6)


def test_it_starts_from_a_detector_and_leaves_that_alone(undisturbed: TrainingResult, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in undisturbed.folder.iterdir()}
    config = CONFIG.model_copy(update={"steps": 2, "lr": 1e-6, "ema": 0.0})
    result = train_detector(config, examples(), undisturbed.folder, tmp_path)
    images = torch.rand(1, 3, 32, 32)
    tuned = load_detector(result.folder).confidence(images)
    start = load_detector(undisturbed.folder).confidence(images)
    assert torch.allclose(tuned, start, atol=0.02) and not torch.equal(tuned, start)
    assert before == {file.name: file.read_bytes() for file in undisturbed.folder.iterdir()}


def test_a_loss_that_is_no_number_stops_before_the_weights_change(tmp_path: Path) -> None:
    class Poisoned(MemorySamples):
        def sample(self, index: int) -> Sample:
            found = super().sample(index)
            return Sample(image=found.image, target=found.target, kind=found.kind, weight=float("nan"))

    detector = NetworkDetector.fresh(SEGFORMER)
    save_detector(detector, tmp_path / "start")
    with pytest.raises(NonFinite, match="step 0") as caught:
        train_detector(CONFIG, Poisoned([example(1)] * 8), tmp_path / "start", tmp_path / "work")
    assert caught.value.step == 0
    assert not (tmp_path / "work" / "detector").exists()


def test_a_gradient_that_is_no_number_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    kept: list[torch.Tensor] = []

    def spoiled(self: Accelerator, loss: torch.Tensor) -> None:
        loss.backward()
        weight = next(parameter for parameter in self._models[0].parameters() if parameter.grad is not None)
        assert weight.grad is not None
        weight.grad.fill_(float("inf"))
        kept.extend([weight, weight.detach().clone()])

    monkeypatch.setattr(Accelerator, "backward", spoiled)
    with pytest.raises(NonFinite, match="gradient became non-finite at step 0"):
        train_detector(CONFIG, examples(), None, tmp_path)
    assert torch.equal(kept[0], kept[1])


def scaled(monkeypatch: pytest.MonkeyPatch, *, start: float, overflows_above: float) -> None:
    """Train with fp16's loss scaling on the processor, which accelerate has for GPUs alone."""
    from accelerate import Accelerator

    accelerator_for = training._accelerator

    def with_scaler(config: DetectorTrainingConfig) -> Accelerator:
        found = accelerator_for(config)
        found.scaler = torch.amp.GradScaler("cpu", init_scale=start)
        return found

    def backward(self: Accelerator, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()
        if self.scaler.get_scale() > overflows_above:
            weight = next(one for one in self._models[0].parameters() if one.grad is not None)
            weight.grad.fill_(float("inf"))

    def clip(self: Accelerator, parameters: Any, norm: float) -> torch.Tensor:
        self.scaler.unscale_(self._optimizers[0].optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, norm)

    monkeypatch.setattr(training, "_accelerator", with_scaler)
    monkeypatch.setattr(Accelerator, "backward", backward)
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", clip)


def test_an_overflow_of_the_scaled_loss_skips_that_update_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates overflow, the scale falls, training goes on, and a resumed run does the same."""
    plain = train_detector(CONFIG, examples(), None, tmp_path / "plain").losses
    scaled(monkeypatch, start=2.0**22, overflows_above=2.0**20)
    whole = train_detector(CONFIG, examples(), None, tmp_path / "whole").losses
    assert np.isfinite(whole).all() and whole[0] == pytest.approx(plain[0], abs=1e-6)
    assert whole[5:] != pytest.approx(plain[5:], abs=1e-4), "what is skipped is missing"
    with pytest.raises(Cancelled):
        train_detector(CONFIG, examples(), None, tmp_path / "cut", report=stopping_at(5))
    kept = json.loads((tmp_path / "cut" / "checkpoint-000000003" / "progress.json").read_text())
    assert kept["scaler"]["scale"] == 2.0**20
    assert train_detector(CONFIG, examples(), None, tmp_path / "cut").losses == whole


def test_a_gradient_that_no_scale_mends_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled(monkeypatch, start=2.0**-8, overflows_above=0)
    with pytest.raises(NonFinite, match="gradient became non-finite at step 3"):
        train_detector(CONFIG, examples(), None, tmp_path)


def test_the_same_process_can_train_in_another_precision(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 2, "precision": "bf16"})
    result = train_detector(config, examples(), None, tmp_path)
    assert np.isfinite(result.losses).all()
    image = example(1).image
    assert load_detector(result.folder).find_artifacts(image).dtype == np.float32


def test_pictures_of_any_size_become_one_batch() -> None:
    chunk = [example(1, side=32), example(3, side=64), example(5, side=20)]
    batch = collate(chunk, 32, CONFIG, 0)
    assert batch.images.shape == (3, 3, 32, 32) and batch.targets.shape == (3, 32, 32)
    assert batch.images.min() >= 0 and batch.targets.max() <= 1


def test_weights_multiply_by_example_and_kind() -> None:
    sample = example(1)
    twice = Sample(image=sample.image, target=sample.target, kind="pseudo", weight=2.0)
    config = CONFIG.model_copy(update={"kind_weight": {"pseudo": 0.25}})
    assert collate([twice, sample], 32, config, 0).weights.tolist() == [0.5, 1.0]


def test_a_target_of_another_size_or_range_is_refused() -> None:
    sample = example(1)
    for target in (sample.target[:-1], sample.target * 2, np.full_like(sample.target, np.nan)):
        wrong = Sample(image=sample.image, target=target, kind="true")
        with pytest.raises(InputRefused, match="publish the snapshot again"):
            collate([wrong], 32, CONFIG, 0)


def test_sets_of_one_kind_train_and_empty_ones_are_refused(tmp_path: Path) -> None:
    clean = MemorySamples([example(0)] * 4)
    result = train_detector(CONFIG.model_copy(update={"steps": 2}), clean, None, tmp_path / "clean")
    assert np.isfinite(result.losses).all()
    with pytest.raises(InputRefused, match="empty"):
        train_detector(CONFIG, MemorySamples([]), None, tmp_path / "empty")


def test_figures_come_in_the_order_of_the_examples(undisturbed: TrainingResult) -> None:
    detector = load_detector(undisturbed.folder)
    rows = measure_detector(detector, examples(7), batch=3)
    assert [row.flawed for row in rows] == [bool(example(i).target.any()) for i in range(7)]
    found = detector.find_artifacts(example(4).image)
    assert rows[4].max == pytest.approx(float(found.max()), abs=1e-5)


def test_seeds_of_steps_do_not_repeat() -> None:
    seeds = {step_seed(0, step, stream) for step in range(500) for stream in range(2)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.slow
def test_two_processes_train_one_detector_and_resume_exactly(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from dataengine.diagnosis.training import train_detector
from dataengine.errors import Cancelled
from tests.dataengine.diagnosis.test_training import CONFIG, stopping_at
from tests.dataengine.diagnosis.tiny import examples
whole, cut = Path({str(tmp_path)!r}) / "whole", Path({str(tmp_path)!r}) / "cut"
undisturbed = train_detector(CONFIG, examples(), None, whole)
try:
    train_detector(CONFIG, examples(), None, cut, stopping_at(5))
except Cancelled:
    pass
assert [found.name for found in cut.glob("checkpoint-*")] == ["checkpoint-000000003"]
assert train_detector(CONFIG, examples(), None, cut).losses == undisturbed.losses
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run([*command, str(program)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_detector(tmp_path / name / "detector").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
