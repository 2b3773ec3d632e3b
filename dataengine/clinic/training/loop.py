"""One resumable training loop for every model of the clinic.

After a kill the loop resumes from its last checkpoint with the same random numbers, so the final weights are
the same.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dataengine.records import Report

LOG_EVERY = 25


class Task(Protocol):
    """A training task: its weights, their optimisers, and the loss on a fresh random batch."""

    @property
    def module(self) -> nn.Module:
        """All trained weights."""

    @property
    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Their optimisers, with the highest learning rates."""

    def loss(self) -> Tensor:
        """A scalar; batches and noise come from torch's global generator."""
        ...


@dataclass(frozen=True)
class Schedule:
    """`steps` updates; the rate rises over `warmup` steps and, from the share `decay_from` of all steps,
    falls to 0.
    """

    steps: int
    warmup: int = 60
    decay_from: float = 0.4
    ema: float = 0.998
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """The factor on the learning rates in a step."""
        remaining = 1 - step / self.steps
        falling = remaining / (1 - self.decay_from) if self.decay_from < 1 else 1.0
        return min(1.0, (step + 1) / self.warmup) * min(1.0, falling)

    def ema_decay(self, step: int) -> float:
        """The decay at a step: grows to `ema`, so that the initial random weights lose their influence
        early."""
        return min(self.ema, step / (step + 30))


def train(
    task: Task,
    schedule: Schedule,
    work: Path,
    report: Report,
    checkpoint_seconds: float = 120.0,
    start: Path | None = None,
) -> None:
    """Train, and leave the averaged weights in `task.module`.

    `work` keeps `checkpoint.pt` and `log.jsonl` (step, loss, seconds). `start` is the checkpoint of another
    task with the same weights; steps, optimisers and averages continue from it.
    """
    work.mkdir(parents=True, exist_ok=True)
    rates = [group["lr"] for optimiser in task.optimisers for group in optimiser.param_groups]
    average = {name: value.detach().clone() for name, value in task.module.state_dict().items()}
    step, seconds = 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        step, seconds = _resume(task, average, checkpoint, with_random_state=True)
    elif start is not None:
        step, _ = _resume(task, average, start, with_random_state=False)
    _truncate_log_after(work / "log.jsonl", step)
    began, saved, losses = time.monotonic() - seconds, time.monotonic(), []
    task.module.train()
    while step < schedule.steps:
        losses.append(_update(task, rates, schedule, step))
        step += 1
        _move_average(average, task.module, schedule.ema_decay(step))
        if step % LOG_EVERY == 0 or step == schedule.steps:
            mean, losses = sum(losses) / len(losses), []
            _log(
                work / "log.jsonl", step=step, loss=round(mean, 5), seconds=round(time.monotonic() - began, 1)
            )
            report(step, schedule.steps, work.name, loss=mean)
        if time.monotonic() - saved > checkpoint_seconds or step == schedule.steps:
            _save(task, average, step, time.monotonic() - began, checkpoint)
            saved = time.monotonic()
    task.module.load_state_dict(average)
    task.module.eval()


def _update(task: Task, rates: list[float], schedule: Schedule, step: int) -> float:
    groups = [group for optimiser in task.optimisers for group in optimiser.param_groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate * schedule.rate(step)
    for optimiser in task.optimisers:
        optimiser.zero_grad()
    loss = task.loss()
    loss.backward()
    nn.utils.clip_grad_norm_(task.module.parameters(), schedule.clip)
    for optimiser in task.optimisers:
        optimiser.step()
    return loss.item()


@torch.no_grad()
def _move_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _save(task: Task, average: dict[str, Tensor], step: int, seconds: float, path: Path) -> None:
    state: dict[str, Any] = {
        "step": step,
        "seconds": seconds,
        "module": task.module.state_dict(),
        "average": average,
        "optimisers": [optimiser.state_dict() for optimiser in task.optimisers],
        "random": torch.get_rng_state(),
    }
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(task: Task, average: dict[str, Tensor], path: Path, with_random_state: bool) -> tuple[int, float]:
    state = torch.load(path, weights_only=True, map_location="cpu")
    task.module.load_state_dict(state["module"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    for optimiser, known in zip(task.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(known)
    if with_random_state:
        torch.set_rng_state(state["random"])
    return state["step"], state["seconds"]


def _log(path: Path, **entry: float) -> None:
    with path.open("a") as log:
        log.write(json.dumps(entry) + "\n")


def _truncate_log_after(path: Path, step: int) -> None:
    """Drop the log lines that a killed run wrote after its last checkpoint; those steps are repeated."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
