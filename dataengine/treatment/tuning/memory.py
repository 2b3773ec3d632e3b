"""A treatment that ran out of memory: what it does when it is resumed.

It switches on what saves memory and leaves the result as it is, gradient checkpointing and offloading; once
these have not sufficed either, it refuses until a setting has changed or more memory is free. Torch-free when
imported.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.errors import OutOfMemory
from dataengine.records import digest
from dataengine.treatment.config import TreatmentConfig

FILE = "out-of-memory.json"
SAVING: Mapping[str, Any] = {"checkpointing": True, "offload": ("text", "activations")}
"""Settings that need less memory, more time, and lead to the same weights."""
WITHOUT_MEMORY = {
    "updates",
    "learning_rate",
    "decay",
    "betas",
    "weight_decay",
    "clip_norm",
    "seed",
    "checkpoint_every",
}
"""Settings that an update's memory does not depend on."""
MORE = 1.1
"""How much more memory must be free before what failed is tried again unchanged."""


@dataclass(frozen=True)
class Failure:
    """One attempt that ran out of memory."""

    settings: str
    free_bytes: int
    """At its start."""
    sentence: str


def fitting(config: TreatmentConfig, device: str, work: Path) -> TreatmentConfig:
    """The settings with which to begin or resume the run in `work`: those given, or, once they have run out
    of memory there, the same with `SAVING`.

    Raises `OutOfMemory` with the earlier sentence where both have, and no more memory is free than then.
    """
    failures, free = read_failures(work), free_memory(device)[0]
    for attempt in (config, config.model_copy(update=dict(SAVING))):
        failure = failures.get(key_of(attempt))
        if failure is None or free > MORE * failure.free_bytes:
            return attempt
    raise OutOfMemory(f"{failure.sentence} Nothing of this has changed since." if failure else "")


def record_failure(config: TreatmentConfig, free_bytes: int, sentence: str, work: Path) -> None:
    """Keep for a resume that these settings ran out of memory with so many bytes free at the start."""
    failures = read_failures(work) | {key_of(config): Failure(key_of(config), free_bytes, sentence)}
    durable.make_folder(work)
    durable.write_text(work / FILE, json.dumps([asdict(each) for each in failures.values()]))


def read_failures(work: Path) -> dict[str, Failure]:
    """The attempts in `work` that ran out of memory, by their settings."""
    file = work / FILE
    rows = json.loads(file.read_text()) if file.is_file() else []
    return {row["settings"]: Failure(**row) for row in rows}


def key_of(config: TreatmentConfig) -> str:
    """Identifies the settings that memory depends on."""
    return digest(
        "memory", json.dumps(config.model_dump(mode="json", exclude=WITHOUT_MEMORY), sort_keys=True)
    )


def free_memory(device: str) -> tuple[int, int]:
    """Free and total bytes of the accelerator, or of this machine's memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // 2, total
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return free, total
