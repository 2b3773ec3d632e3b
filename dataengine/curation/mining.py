"""Mining: the few images that teach the detector most (DiffDoctor, Sec. 3.2, hard cases). NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.curation.config import MiningConfig

GRID = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An image that people could be asked about."""

    image_id: str
    category: str
    confidence: float
    """Highest predicted confidence, in [0, 1]."""
    uncertainty: float
    """How undecided its map is, in [0, 1]."""
    features: NDArray[np.float32] | None = None
    """What it looks like, one vector length for all candidates; None: diversity plays no part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An image to ask about."""

    image_id: str
    category: str
    priority: float
    """In (0, 1], falling in the order of choice."""
    reason: str
    """Why, in words for people."""


def choose(candidates: Sequence[Candidate], config: MiningConfig | None = None) -> list[Choice]:
    """The images to ask about, most valuable first; at most `budget`, fewer when candidates run out.

    The budget is split evenly over categories, and what one cannot use goes to the others. Within a
    category, images at or above `threshold` are taken greedily by worth: weighted confidence, rank of
    uncertainty, and rank of the distance to the nearest image taken already (k-centre greedy, Sener &
    Savarese 2018). A share `explore` is drawn at random from below the threshold. Categories take turns, so
    that any first part of the list is balanced too.
    """
    config = config or MiningConfig()
    rng = np.random.default_rng(config.seed)
    hard: dict[str, list[Candidate]] = {}
    quiet: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda found: found.image_id):
        side = hard if candidate.confidence >= config.threshold else quiet
        side.setdefault(candidate.category, []).append(candidate)
    exploring = round(config.budget * config.explore)
    chosen: dict[str, list[tuple[Candidate, str]]] = {}
    for category, quota in split_evenly(_sizes(hard), config.budget - exploring).items():
        picked = greedy(hard[category], quota, config)
        chosen[category] = [(found, _why(found)) for found in picked]
    left = config.budget - sum(map(len, chosen.values()))
    for category, quota in split_evenly(_sizes(quiet), min(exploring, left)).items():
        picked = [quiet[category][int(i)] for i in rng.permutation(len(quiet[category]))[:quota]]
        chosen.setdefault(category, []).extend((found, _why_random(found)) for found in picked)
    turns = _in_turns([chosen[category] for category in sorted(chosen)])
    return [
        Choice(
            image_id=found.image_id,
            category=found.category,
            priority=1 - place / max(len(turns), 1),
            reason=reason,
        )
        for place, (found, reason) in enumerate(turns)
    ]


def greedy(candidates: Sequence[Candidate], count: int, config: MiningConfig) -> list[Candidate]:
    """`count` candidates of one category, each the most valuable given those taken before it."""
    worth = config.confidence * np.array([found.confidence for found in candidates])
    worth = worth + config.uncertainty * ranks(np.array([found.uncertainty for found in candidates]))
    features = [found.features for found in candidates]
    vectors = None if any(each is None for each in features) else np.array(features, dtype=np.float64)
    nearest = np.full(len(candidates), np.inf)
    free = np.ones(len(candidates), dtype=bool)
    taken: list[Candidate] = []
    for _ in range(min(count, len(candidates))):
        score = worth.copy()
        if vectors is not None and taken:
            score += config.diversity * ranks(nearest)
        best = int(np.argmax(np.where(free, score, -np.inf)))
        free[best] = False
        taken.append(candidates[best])
        if vectors is not None:
            nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[best], axis=1))
    return taken


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks scaled to [0, 1], ties sharing the lowest."""
    if len(values) < 2:
        return np.zeros(len(values))
    return np.searchsorted(np.sort(values), values) / (len(values) - 1)


def split_evenly(available: Mapping[str, int], budget: int) -> dict[str, int]:
    """Shares of `budget` as even as what is available allows; an indivisible rest goes by name order."""
    shares = dict.fromkeys(sorted(available), 0)
    for _ in range(min(budget, sum(available.values()))):
        open_ones = [name for name in shares if shares[name] < available[name]]
        least = min(open_ones, key=lambda name: shares[name])
        shares[least] += 1
    return shares


def thumbnail_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What uint8 NHW3 images look like from afar: mean colour on an 8×8 grid, float32 N×192 in [0, 1].

    H and W must be at least 8. A cheap stand-in for encoder features, enough to tell repeated layouts apart.
    """
    count, height, width = images.shape[:3]
    rows, columns = np.arange(GRID) * height // GRID, np.arange(GRID) * width // GRID
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=1), columns, axis=2)
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))[None, :, :, None]
    return (sums / areas / 255).reshape(count, -1).astype(np.float32)


def _sizes(groups: Mapping[str, Sequence[Candidate]]) -> dict[str, int]:
    return {category: len(group) for category, group in groups.items()}


def _why(found: Candidate) -> str:
    seen = f"confidence {found.confidence:.2f}, undecided {found.uncertainty:.2f}"
    return f"{found.category or 'uncategorised'}: {seen}"


def _why_random(found: Candidate) -> str:
    return (
        f"{found.category or 'uncategorised'}: a random look where nothing was found ({found.confidence:.2f})"
    )


def _in_turns(groups: Sequence[Sequence[tuple[Candidate, str]]]) -> list[tuple[Candidate, str]]:
    """One of each group, then the second of each, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]
