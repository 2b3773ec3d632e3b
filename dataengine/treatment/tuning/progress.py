"""The state of a treatment, stored so that a killed run resumes exactly.

Every random choice of an update depends on the run's seed and the update's number, so weights, optimizer and
position are the complete state. It is one safetensors file, replaced by a rename.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dataengine import durable
from dataengine.errors import ConfigRefused
from dataengine.records import digest
from dataengine.treatment.config import TreatmentConfig

FILE = "progress.safetensors"
STEPS_BACK = 3
"""Reports of a backward pass, until the first update has counted them."""

FREE_TO_CHANGE = {"updates", "learning_rate", "clip_norm", "checkpoint_every", "checkpointing", "offload"}
"""Settings that a resumed run may change, for example after a non-finite loss or running out of memory."""
ALWAYS_COMPARED = {
    "batch",
    "accumulation",
    "grad_steps",
    "sampling",
    "pixel",
    "region",
    "offline",
    "lora",
    "betas",
    "weight_decay",
    "seed",
    "guard",
}
"""Settings that a resumed run must share with the original run. Fields that were or will be added to
`TreatmentConfig` later are compared only if they differ from their default, so that older runs can be
resumed."""
ADDED = {"guard": ("steps", "norm"), "offline": ("targets",)}
"""Fields of these that were added later."""

Weights = Mapping[str, nn.Parameter]


@dataclass(kw_only=True)
class Progress:
    """Updates done, the measurements of each, and the best weights so far."""

    done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    breaches: int = 0
    """Consecutive breaches of the guard's limits."""
    stopped: str = ""
    """Reason why the guard stopped the run; empty otherwise."""
    kept_step: int = 0
    kept_confidence: float = float("inf")
    kept: dict[str, Tensor] = field(default_factory=dict)
    old: dict[str, Tensor] = field(default_factory=dict)
    """Weights of DiffusionNFT's old policy, or of self-refining's best measurement; empty without one."""

    def keep(self, step: int, confidence: float, weights: Weights) -> None:
        """Store the current weights as the best."""
        self.kept_step, self.kept_confidence = step, confidence
        self.kept = {name: weight.detach().cpu().clone() for name, weight in weights.items()}


@dataclass(kw_only=True)
class Parts:
    """How far an update has come, by counting its parts: forward and backward steps."""

    expected: int
    """As many as the update before had."""
    done: int = 0

    def advance(self) -> float:
        """One part more; the share of the update that is done, below 1."""
        self.done += 1
        return min(self.done / self.expected, 0.99)

    def restart(self) -> None:
        """Begin the next update."""
        self.expected, self.done = self.done or self.expected, 0


def save(
    progress: Progress, weights: Weights, optimizer: torch.optim.Optimizer, identity: str, work: Path
) -> None:
    """Write the state, by a temporary name and a rename. `identity` identifies the run."""
    tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
    tensors |= {f"kept/{name}": weight for name, weight in progress.kept.items()}
    tensors |= {f"old/{name}": weight for name, weight in progress.old.items()}
    for name, weight in weights.items():
        tensors |= {f"optimizer/{key}/{name}": value for key, value in optimizer.state[weight].items()}
    plain = {
        "done": progress.done,
        "history": progress.history,
        "breaches": progress.breaches,
        "stopped": progress.stopped,
        "kept_step": progress.kept_step,
        "kept_confidence": progress.kept_confidence,
    }
    work.mkdir(parents=True, exist_ok=True)
    temporary = work / f".{FILE}.part"
    save_file(
        {key: value.cpu().contiguous() for key, value in tensors.items()},
        temporary,
        metadata={"progress": json.dumps(plain), "identity": identity},
    )
    durable.move(temporary, work / FILE)


def identities(config: TreatmentConfig, prompts: Sequence[str], weights: Weights) -> tuple[str, str]:
    """What identifies a run, and what else may: checkpointing was once compared, so it is named still."""
    unused = {
        name
        for name, about in type(config).model_fields.items()
        if name not in ALWAYS_COMPARED and getattr(config, name) == about.default
    }
    fixed = config.model_dump(exclude=FREE_TO_CHANGE | unused)
    for name, fields in ADDED.items():
        section = getattr(config, name)
        for added in fields if section is not None else ():
            if getattr(section, added) == type(section).model_fields[added].default:
                del fixed[name][added]
    shapes = [(name, tuple(weight.shape)) for name, weight in weights.items()]
    without, with_it = (
        digest("treatment", json.dumps(fixed | {"checkpointing": on}, sort_keys=True), list(prompts), shapes)
        for on in (False, True)
    )
    return without, with_it


def restore(
    weights: Weights, optimizer: torch.optim.Optimizer, identity: str, work: Path, earlier: str = ""
) -> Progress | None:
    """Restore weights and optimizer from the run in `work`; None if there is none. `earlier` is another
    identity that the same run may have.

    Raises `ConfigRefused` when the state belongs to a run with other settings, or cannot be read.
    """
    if not (work / FILE).is_file():
        return None
    try:
        with safe_open(work / FILE, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigRefused(
            f"{work / FILE} cannot be read ({error}); empty the folder to start over"
        ) from error
    if metadata.get("identity") not in (identity, earlier):
        raise ConfigRefused(
            f"{work} holds a treatment with other settings, prompts or generator; "
            "choose another folder, or empty it"
        )
    _restore_weights(tensors, weights, optimizer)
    kept, old = (
        {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        for start in ("kept/", "old/")
    )
    return Progress(**json.loads(metadata["progress"]), kept=kept, old=old)


def fork(work: Path, other: Path, identity: str, wanted: str) -> None:
    """Let a run with the identity `wanted` continue in `other` from the state of the run in `work`.

    Raises `ConfigRefused` unless the run in `work` has `identity`.
    """
    with safe_open(work / FILE, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if metadata.get("identity") != identity:
        raise ConfigRefused(f"{work} holds another run than the requested one; choose the folder of that run")
    other.mkdir(parents=True, exist_ok=True)
    save_file(tensors, other / f".{FILE}.part", metadata={**metadata, "identity": wanted})
    durable.move(other / f".{FILE}.part", other / FILE)


@torch.no_grad()
def _restore_weights(tensors: dict[str, Tensor], weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    for name, weight in weights.items():
        weight.copy_(tensors[f"weight/{name}"])
        states = {
            key.split("/")[1]: value
            for key, value in tensors.items()
            if key.startswith("optimizer/") and key.split("/", 2)[2] == name
        }
        optimizer.state[weight] = {
            key: value if key == "step" else value.to(weight.device) for key, value in states.items()
        }


@torch.no_grad()
def set_weights(kept: Mapping[str, Tensor], weights: Weights) -> None:
    """Set the weights to stored ones."""
    for name, weight in weights.items():
        weight.copy_(kept[name])


def seed_of(*numbers: int) -> int:
    """An independent seed for every combination of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def guard_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The guard's measurements after an update, as figures `guard_…` by name; empty without one."""
    if "guard" not in row:
        return {}
    guard = row["guard"]
    figures = {f"guard_{name.replace(' ', '_')}": float(value) for name, value in guard["values"].items()}
    return figures | {name: float(guard[name]) for name in ("mean_confidence", "max_confidence")}
