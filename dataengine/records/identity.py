"""Ids, splits and groups, and the progress reports of long work."""

import hashlib
import time
from typing import Literal, Protocol

from dataengine.errors import InputRefused

Split = Literal["train", "validation", "benchmark"]


class Report(Protocol):
    """Called by every long loop at least once a second; raises `Cancelled` when a stop was requested.

    `done` of `total` may be a fraction: part of a step that takes long.
    """

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None: ...


def no_report(done: float, total: int, message: str = "", **figures: float) -> None:
    """A `Report` that does nothing."""


def not_pausing() -> bool:
    """The `pausing` of work that cannot be paused."""
    return False


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def digest(*parts: object, length: int = 24) -> str:
    """A deterministic hexadecimal id of the parts, `length` characters."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    # Paths of files that are not named in UTF-8 hold lone surrogates.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]


def image_id(sha256: str, generator_id: str | None, prompt: str, seed: int | None) -> str:
    """The deterministic id of an image, so that a repeated stage stores nothing twice."""
    return digest("image", sha256, generator_id, prompt, seed)


def prompt_group(prompt: str, seed: int) -> str:
    """The group of all images of one prompt and seed, by any generator."""
    return digest("group", prompt, seed)


def split_of(group: str, validation: float = 0.15, benchmark: float = 0.0) -> Split:
    """The split of a group; images of one prompt and seed, or near-duplicates, stay together."""
    if not 0 <= validation + benchmark < 1:
        raise InputRefused(f"split shares {validation} + {benchmark} must lie in [0, 1)")
    share = int(hashlib.sha256(group.encode()).hexdigest()[:12], 16) / 16**12
    if share < benchmark:
        return "benchmark"
    return "validation" if share < benchmark + validation else "train"
