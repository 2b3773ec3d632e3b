"""Training of a detector: MSE on the sigmoid map (DiffDoctor, Eq. 1) or other losses, bit-exactly resumable.

Every random choice of a step comes from the seed and the step's number, so a checkpoint needs no generator
state: weights, averaged weights, optimizer and position are enough to resume with the same losses.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine import durable
from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.augmentation import augment
from dataengine.diagnosis.config import DetectorTrainingConfig, PseudoTargetConfig
from dataengine.diagnosis.dataset import BalancedSampler, Sample, Samples
from dataengine.diagnosis.detector import (
    WEIGHTS_FILE,
    Detector,
    NetworkDetector,
    as_images,
    load_detector,
    save_detector,
)
from dataengine.diagnosis.encoders import untrained_detector
from dataengine.diagnosis.evaluation import evaluate_detector
from dataengine.diagnosis.losses import map_loss
from dataengine.errors import ConfigRefused, InputRefused, NonFinite, Paused
from dataengine.records import Report, no_report, not_pausing

RESULT_FILE = "result.json"
SMALLEST_SCALE = 2.0**-10
"""Initial scale of fp16 gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """The result of a training run."""

    folder: Path
    """Detector folder of the averaged weights."""
    losses: list[float]
    """The loss of every step."""
    metrics: dict[str, Any]
    """`DetectorMetrics` on the validation examples as a dict; empty without any."""


Watch = Callable[[int, Detector], None]
"""Called with the number of steps done and the current detector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The batch of one update, on the CPU."""

    images: Tensor
    """float32 N3HW in [0, 1]."""
    targets: Tensor
    """float32 NHW in [0, 1]."""
    weights: Tensor
    """float32 N."""
    counted: Tensor
    """float32 NHW, 1 for pixels that count in the loss, 0 for the others."""


def train_detector(
    config: DetectorTrainingConfig,
    samples: Samples,
    start: Path | None,
    work: Path,
    report: Report = no_report,
    validation: Samples | None = None,
    watch: Watch | None = None,
    pausing: Callable[[], bool] = not_pausing,
) -> TrainingResult:
    """Train from the detector folder `start`; when it is None, from `config.detector` with random weights or
    with the encoder weights `config.encoder_weights`.

    `work` keeps checkpoints while it runs and the detector folder at the end. Called again with the same
    folder it resumes from the last checkpoint with the losses of an uninterrupted run, or returns the result.

    Several processes (`accelerate launch`, `torchrun`) with one `work` share every batch, and the main
    process writes. `watch` gets the detector with averaged weights at every checkpoint and at the end.
    `pausing` is called after every step, in a run of one process.

    Raises `NonFinite` before a non-finite update reaches the weights, `ConfigRefused` when `work` belongs to
    another run, `InputRefused` for an empty set, `Paused` after a checkpoint when `pausing` returns true, and
    whatever `report` raises.
    """
    run = Run(config=config.model_dump(mode="json"), start=_digest(start), examples=len(samples))
    finished = work / RESULT_FILE
    if finished.is_file():
        kept = json.loads(finished.read_text())
        run.check(kept["run"], work)
        return TrainingResult(folder=work / "detector", losses=kept["losses"], metrics=kept["metrics"])
    sampler = BalancedSampler.over(
        samples,
        mixture=config.mixture,
        balance=config.balance,
        flawed=config.flawed,
        batch=config.batch,
        seed=config.seed,
    )
    accelerator = _accelerator(config)
    with torch.random.fork_rng():
        detector = untrained_detector(config) if start is None else load_detector(start)
        trained, losses = _optimise(
            config, detector, samples, sampler, run, work, report, accelerator, watch, pausing
        )
    if accelerator.is_main_process:
        save_detector(trained, work / "detector")
        metrics = {} if validation is None else asdict(evaluate_detector(trained, validation, report=report))
        _write(finished, {"run": run.facts(), "losses": losses, "metrics": metrics})
        for checkpoint in _checkpoints(work):
            shutil.rmtree(checkpoint)
    accelerator.wait_for_everyone()
    kept = json.loads(finished.read_text())
    return TrainingResult(folder=work / "detector", losses=kept["losses"], metrics=kept["metrics"])


def pseudo_targets(maps: Tensor, config: PseudoTargetConfig) -> tuple[Tensor, Tensor]:
    """Training targets from maps NHW in [0, 1]: targets in [0, 1], and 1 where a pixel counts, else 0, both
    NHW."""
    counted = torch.ones_like(maps)
    if config.leave_out is not None:
        low, high = config.leave_out
        counted = 1 - ((maps > low) & (maps < high)).float()
    return (maps if config.form == "soft" else (maps >= config.threshold).float()), counted


def rate_factor(step: int, steps: int, warmup: float, power: float) -> float:
    """Learning rate of a step (from 0) over the peak: linear warm-up, then polynomial decay towards 0."""
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return (1 - (step - rising) / (steps - rising)) ** power


def parameter_groups(detector: NetworkDetector, config: DetectorTrainingConfig) -> list[dict[str, Any]]:
    """AdamW groups: decode head and encoder at their factors of the rate; no decay for norms and biases.

    `frozen` is the number of updates at the start in which a group is not trained.
    """
    architecture = architecture_of(detector.config)
    factors = {"head": config.head_factor, "encoder": config.encoder_factor, "rest": 1.0}
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in detector.network.named_parameters():
        part = "rest"
        if name.startswith(architecture.head):
            part = "head"
        elif name.startswith(architecture.encoder):
            part = "encoder"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * factors[part],
            "peak": config.lr * factors[part],
            "weight_decay": config.weight_decay if decays else 0.0,
            "frozen": config.encoder_frozen if part == "encoder" else 0,
        }
        for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def collate(chunk: Sequence[Sample], size: int, config: DetectorTrainingConfig, step: int) -> Batch:
    """Collate examples of any sizes into one augmented batch of size² squares, with the step's random
    numbers."""
    images, targets = zip(*(_square(sample, size) for sample in chunk), strict=True)
    augmented, moved = augment(
        torch.stack(images),
        torch.stack(targets),
        kinds=[sample.kind for sample in chunk],
        categories=[sample.category for sample in chunk],
        max_confidence=[sample.max_confidence for sample in chunk],
        config=config.augmentation,
        generator=torch.Generator().manual_seed(step_seed(config.seed, step)),
    )
    weights = [sample.weight * config.kind_weight.get(sample.kind, 1.0) for sample in chunk]
    counted = torch.ones_like(moved)
    pseudo = [i for i, sample in enumerate(chunk) if sample.kind == "pseudo"]
    if pseudo:
        moved[pseudo], counted[pseudo] = pseudo_targets(moved[pseudo], config.pseudo)
    return Batch(images=augmented, targets=moved, weights=torch.tensor(weights), counted=counted)


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A seed for one step and purpose, independent of all others."""
    return int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The identity of the run in a work folder."""

    config: dict[str, Any]
    start: str
    """Hash of the initial weights."""
    examples: int

    def facts(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def check(self, kept: dict[str, Any], work: Path) -> None:
        """Raise `ConfigRefused` when `work` holds another run."""
        # A run that began before a setting existed has its default.
        config = DetectorTrainingConfig.model_validate(kept["config"]).model_dump(mode="json")
        wrong = [key for key, value in self.facts().items() if (kept | {"config": config}).get(key) != value]
        if wrong:
            raise ConfigRefused(
                f"{work} holds a training run with a different {' and '.join(wrong)}; "
                "choose another folder, or empty it to start over"
            )


@dataclass(kw_only=True, slots=True)
class State:
    """The state of a run, as stored in a checkpoint."""

    detector: NetworkDetector
    average: dict[str, Tensor]
    optimizer: Any
    scaler: Any
    """The gradient scaler of fp16; None otherwise."""
    losses: list[float]


def _optimise(
    config: DetectorTrainingConfig,
    detector: NetworkDetector,
    samples: Samples,
    sampler: BalancedSampler,
    run: Run,
    work: Path,
    report: Report,
    accelerator: Any,
    watch: Watch | None,
    pausing: Callable[[], bool],
) -> tuple[NetworkDetector, list[float]]:
    """The detector with averaged weights, frozen, and the loss of every step."""
    detector.config = detector.config.model_copy(update={"name": config.name})
    detector.requires_grad_(True).train()
    # The fused kernel cuts an update of SegFormer-b5 to two thirds on a GPU, and costs nothing on a CPU.
    fused = accelerator.device.type == "cuda"
    optimizer = torch.optim.AdamW(parameter_groups(detector, config), fused=fused)
    model, optimizer = accelerator.prepare(detector, optimizer)
    average = {key: value.detach().clone() for key, value in detector.network.state_dict().items()}
    state = State(
        detector=detector, average=average, optimizer=optimizer, scaler=accelerator.scaler, losses=[]
    )
    _resume(state, run, work)
    first = len(state.losses)
    with _batches(config, detector.config.size, samples, sampler, accelerator, first) as batches:
        for step in range(first, config.steps):
            state.losses.append(_update(config, model, state, next(batches), accelerator, step))
            done = step + 1
            pauses = done < config.steps and accelerator.num_processes == 1 and pausing()
            due = done % config.checkpoint_every == 0 and done < config.steps
            if (due or pauses) and accelerator.is_main_process:
                _save(state, run, work)
                if watch is not None and due:
                    _show(state, watch, done)
            report(done, config.steps, "training", loss=state.losses[-1], lr=optimizer.param_groups[0]["lr"])
            if pauses:
                raise Paused(f"paused after step {done}; resume it to continue from there")
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    detector.network.load_state_dict(state.average)
    detector.eval().requires_grad_(False)
    if watch is not None and accelerator.is_main_process:
        watch(config.steps, detector)
    return detector, state.losses


def _show(state: State, watch: Watch, done: int) -> None:
    """Call `watch` with the averaged weights in place of the trained ones, which are restored unchanged."""
    network = state.detector.network
    learning = {key: value.detach().clone() for key, value in network.state_dict().items()}
    network.load_state_dict(state.average)
    state.detector.eval()
    try:
        with torch.no_grad():
            watch(done, state.detector)
    finally:
        network.load_state_dict(learning)
        state.detector.train()


def _update(
    config: DetectorTrainingConfig, model: Any, state: State, batch: Batch, accelerator: Any, step: int
) -> float:
    """One update; returns its loss. Raises `NonFinite` before the weights change."""
    torch.manual_seed(step_seed(config.seed, step, 1 + accelerator.process_index))
    factor = rate_factor(step, config.steps, config.warmup, config.power)
    for group in state.optimizer.param_groups:
        # AdamW scales its weight decay by the rate too, so a group at rate 0 stays as it is.
        group["lr"] = 0.0 if step < group["frozen"] else group["peak"] * factor
    device = accelerator.device
    predicted = model(batch.images.to(device))
    targets, weights, counted = (each.to(device) for each in (batch.targets, batch.weights, batch.counted))
    loss = map_loss(predicted, targets, weights, counted, config.loss)
    value = accelerator.gather(loss.detach()[None]).mean().item()
    if not math.isfinite(value):
        raise NonFinite("the loss", step)
    state.optimizer.zero_grad()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
    # With fp16 the scaler handles an overflow: it skips the update and lowers the scale. Below the
    # smallest scale the gradient itself is non-finite, and every update would be skipped.
    scaler = accelerator.scaler
    if not torch.isfinite(norm) and (scaler is None or scaler.get_scale() < SMALLEST_SCALE):
        raise NonFinite("the gradient", step)
    state.optimizer.step()
    move_average(state.average, state.detector.network.state_dict(), average_decay(config.ema, step))
    return value


def average_decay(ema: float, step: int) -> float:
    """Decay of the averaged weights at a step: rises to `ema`, so that short runs are not slowed down."""
    return min(ema, (1 + step) / (10 + step))


def move_average(average: dict[str, Tensor], current: dict[str, Tensor], decay: float) -> None:
    """average ← decay·average + (1 − decay)·current, in place; counters are copied."""
    floating = [key for key, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[key] for key in floating], [current[key] for key in floating], 1 - decay)
    for key in average.keys() - floating:
        average[key].copy_(current[key])


def _accelerator(config: DetectorTrainingConfig) -> Any:
    """A fresh accelerator: its settings are global, and those of an earlier run in this process may
    differ."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu")
    if config.batch % accelerator.num_processes:
        raise ConfigRefused(
            f"batch {config.batch} cannot be shared evenly by {accelerator.num_processes} processes; "
            f"use a multiple of {accelerator.num_processes}"
        )
    return accelerator


@contextmanager
def _batches(
    config: DetectorTrainingConfig,
    size: int,
    samples: Samples,
    sampler: BalancedSampler,
    accelerator: Any,
    first: int,
) -> Iterator[Iterator[Batch]]:
    """This process's batches from step `first`; threads prepare the next one during an update."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    decoders = ThreadPoolExecutor(config.workers, thread_name_prefix="decode")
    builder = ThreadPoolExecutor(1, thread_name_prefix="batch")

    def build(step: int) -> Batch:
        chunk = list(decoders.map(samples.sample, sampler.indices(step)[rank::processes]))
        return collate(chunk, size, config, step * processes + rank)

    def ahead() -> Iterator[Batch]:
        following: Future[Batch] = builder.submit(build, first)
        for step in range(first, config.steps):
            current = following.result()
            if step + 1 < config.steps:
                following = builder.submit(build, step + 1)
            yield current

    try:
        yield ahead()
    finally:
        builder.shutdown(cancel_futures=True)
        decoders.shutdown(cancel_futures=True)


def _square(sample: Sample, size: int) -> tuple[Tensor, Tensor]:
    """Image float32 3·size·size and target float32 size·size; `InputRefused` when they do not match."""
    target = torch.from_numpy(np.asarray(sample.target, dtype=np.float32))
    if tuple(target.shape) != sample.image.shape[:2] or not bool(((target >= 0) & (target <= 1)).all()):
        raise InputRefused(
            f"a training target of {tuple(target.shape)} for an image of {sample.image.shape[:2]} "
            "has another size or values outside [0, 1]; publish the snapshot again"
        )
    both = torch.cat([as_images([sample.image]), target[None, None]], dim=1)
    if both.shape[-2:] != (size, size):
        both = F.interpolate(both, (size, size), mode="bilinear", align_corners=False, antialias=True).clamp(
            0, 1
        )
    return both[0, :3], both[0, 3]


def _checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in work.glob("checkpoint-*") if path.suffix != ".part")


def _save(state: State, run: Run, work: Path) -> None:
    """Write a checkpoint under a temporary name, rename it, delete the older ones once it is on the disk."""
    from safetensors.torch import save_file

    final = work / f"checkpoint-{len(state.losses):09d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    network = {key: value.contiguous() for key, value in state.detector.network.state_dict().items()}
    save_file(network, part / "network.safetensors")
    save_file(state.average, part / "average.safetensors")
    torch.save(state.optimizer.state_dict(), part / "optimizer.pt")
    scale = state.scaler.state_dict() if state.scaler else None
    _write(part / "progress.json", {"run": run.facts(), "losses": state.losses, "scaler": scale})
    older = _checkpoints(work)
    durable.move(part, final)
    for checkpoint in older:
        shutil.rmtree(checkpoint)


def _resume(state: State, run: Run, work: Path) -> None:
    """Restore `state` from the latest checkpoint in `work`, if there is one."""
    from safetensors.torch import load_file

    work.mkdir(parents=True, exist_ok=True)
    checkpoints = _checkpoints(work)
    if not checkpoints:
        return
    latest = checkpoints[-1]
    progress = json.loads((latest / "progress.json").read_text())
    run.check(progress["run"], work)
    state.detector.network.load_state_dict(load_file(latest / "network.safetensors"))
    for key, value in load_file(latest / "average.safetensors").items():
        state.average[key].copy_(value)
    state.optimizer.load_state_dict(
        torch.load(latest / "optimizer.pt", map_location="cpu", weights_only=True)
    )
    if state.scaler:
        state.scaler.load_state_dict(progress["scaler"])
    state.losses[:] = progress["losses"]


def _digest(start: Path | None) -> str:
    """Hash of the detector's weights, "" for none; a path would change when the workspace moves."""
    if start is None:
        return ""
    with (start / WEIGHTS_FILE if start.is_dir() else start).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(file: Path, content: dict[str, Any]) -> None:
    durable.write_text(file, json.dumps(content))
