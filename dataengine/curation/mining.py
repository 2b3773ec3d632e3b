"""Mining: selects the most informative images to annotate (DiffDoctor, Sec. 3.2, hard cases). NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.curation.config import MiningConfig
from dataengine.records import THRESHOLD

GRID = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningCandidate:
    """A candidate for annotation."""

    image_id: str
    category: str
    confidence: float
    """Highest predicted confidence, in [0, 1]."""
    uncertainty: float
    """Uncertainty of its map, in [0, 1]."""
    variance: float = 0.0
    """Test-time variance: how much its map changes when it is mirrored or shrunk, in [0, 1]."""
    disagreement: float = 0.0
    """Mean difference to a second detector's map, in [0, 1]."""
    features: NDArray[np.float32] | None = None
    """Feature vector, of one length for all candidates; None: diversity is ignored."""
    thumbnail: NDArray[np.float32] | None = None
    """Thumbnail colours in [0, 1] that identify near-duplicates, of one length for all; None: no
    near-duplicates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A selected image."""

    image_id: str
    category: str
    priority: float
    """In (0, 1], falling in the order of selection."""
    reason: str
    """Reason shown to annotators."""


def choose_images(candidates: Sequence[MiningCandidate], config: MiningConfig | None = None) -> list[Choice]:
    """Select the images to annotate, highest score first; at most `budget`, fewer when candidates run out.

    The budget is split over categories by `shares`, and what one cannot use goes to the others. Within a
    category, images at or above `threshold` are taken greedily by score: the weighted sum of confidence, of
    the ranks of uncertainty, test-time variance and disagreement, and of the rank of the distance to the
    nearest image taken already (k-centre greedy, Sener & Savarese 2018). A share `explore` is sampled at
    random from below the threshold. Categories alternate, so that any prefix of the list is balanced too.
    Only one of several near-duplicates is a candidate.
    """
    config = config or MiningConfig()
    threshold = THRESHOLD if config.threshold is None else config.threshold
    rng = np.random.default_rng(config.seed)
    hard: dict[str, list[MiningCandidate]] = {}
    quiet: dict[str, list[MiningCandidate]] = {}
    for candidate in without_near_duplicates(candidates, config.near):
        side = hard if candidate.confidence >= threshold else quiet
        side.setdefault(candidate.category, []).append(candidate)
    exploring = round(config.budget * config.explore)
    chosen: dict[str, list[tuple[MiningCandidate, str]]] = {}
    for category, quota in split_budget(_sizes(hard), config.budget - exploring, config.shares).items():
        picked = choose_greedily(hard[category], quota, config)
        chosen[category] = [(candidate, _why(candidate)) for candidate in picked]
    remaining = config.budget - sum(map(len, chosen.values()))
    for category, quota in split_budget(_sizes(quiet), min(exploring, remaining), config.shares).items():
        picked = [quiet[category][int(i)] for i in rng.permutation(len(quiet[category]))[:quota]]
        chosen.setdefault(category, []).extend((candidate, _why_random(candidate)) for candidate in picked)
    turns = _in_turns([chosen[category] for category in sorted(chosen)])
    return [
        Choice(
            image_id=candidate.image_id,
            category=candidate.category,
            priority=1 - place / max(len(turns), 1),
            reason=reason,
        )
        for place, (candidate, reason) in enumerate(turns)
    ]


def without_near_duplicates(candidates: Sequence[MiningCandidate], near: float) -> list[MiningCandidate]:
    """The candidates whose thumbnail differs by `near` or more (mean absolute) from every higher-ranked one.

    The rank is the confidence, then the order of ids. The result is sorted by id.
    """
    kept: list[MiningCandidate] = []
    ordered = sorted(candidates, key=lambda candidate: (-candidate.confidence, candidate.image_id))
    thumbnails = [each.thumbnail for each in ordered if each.thumbnail is not None]
    alike = iter(
        _repeats(np.array(thumbnails), near) if thumbnails and near > 0 else [False] * len(thumbnails)
    )
    for candidate in ordered:
        if candidate.thumbnail is None or not next(alike):
            kept.append(candidate)
    return sorted(kept, key=lambda candidate: candidate.image_id)


def _repeats(thumbnails: NDArray[np.float32], near: float) -> list[bool]:
    """Whether each row of N×D lies nearer than `near` (mean absolute) to an earlier one that is no repeat.

    |mean(a) − mean(b)| ≤ mean|a − b|, so that only rows of similar brightness are compared.
    """
    brightness = thumbnails.mean(axis=1, dtype=np.float64)
    first = np.zeros(len(thumbnails), dtype=bool)
    for row, thumbnail in enumerate(thumbnails):
        close = np.flatnonzero(first[:row] & (np.abs(brightness[:row] - brightness[row]) < near + 1e-6))
        first[row] = not (np.abs(thumbnails[close] - thumbnail).mean(axis=1) < near).any()
    return [bool(each) for each in ~first]


def choose_greedily(
    candidates: Sequence[MiningCandidate], count: int, config: MiningConfig
) -> list[MiningCandidate]:
    """Select `count` candidates of one category, each with the highest score given those taken before it."""
    scores = config.confidence * np.array([candidate.confidence for candidate in candidates])
    for weight, name in (
        (config.uncertainty, "uncertainty"),
        (config.variance, "variance"),
        (config.disagreement, "disagreement"),
    ):
        scores = scores + weight * scaled_ranks(
            np.array([getattr(candidate, name) for candidate in candidates])
        )
    features = [candidate.features for candidate in candidates]
    vectors = None if any(each is None for each in features) else np.array(features, dtype=np.float64)
    nearest = np.full(len(candidates), np.inf)
    free = np.ones(len(candidates), dtype=bool)
    taken: list[MiningCandidate] = []
    for _ in range(min(count, len(candidates))):
        score = scores.copy()
        if vectors is not None and taken:
            score += config.diversity * scaled_ranks(nearest)
        best = int(np.argmax(np.where(free, score, -np.inf)))
        free[best] = False
        taken.append(candidates[best])
        if vectors is not None:
            nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[best], axis=1))
    return taken


def scaled_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks scaled to [0, 1], ties sharing the lowest."""
    if len(values) < 2:
        return np.zeros(len(values))
    return np.searchsorted(np.sort(values), values) / (len(values) - 1)


def split_budget(
    available: Mapping[str, int], budget: int, weights: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Split `budget` in proportion to `weights` (1 where missing), as far as `available` allows.

    The next place goes to the category furthest below its share; ties go by name.
    """
    weights = weights or {}
    shares = dict.fromkeys(sorted(available), 0)
    for _ in range(min(budget, sum(available.values()))):
        behind = {
            name: (shares[name] + 1) / weights.get(name, 1.0)
            for name in shares
            if shares[name] < available[name] and weights.get(name, 1.0) > 0
        }
        if not behind:
            break
        shares[min(behind, key=behind.__getitem__)] += 1
    return shares


def thumbnail_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnail features of uint8 NHW3 images: mean colour on an 8×8 grid, float32 N×192 in [0, 1].

    A cheap stand-in for encoder features, enough to tell repeated layouts apart. A side below 8 pixels
    repeats some of them.
    """
    count, height, width = images.shape[:3]
    rows, columns = np.arange(GRID) * height // GRID, np.arange(GRID) * width // GRID
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=1), columns, axis=2)
    # Where an index repeats, `reduceat` gives that one pixel.
    tall, wide = (
        np.maximum(np.diff([*edges, side]), 1) for edges, side in ((rows, height), (columns, width))
    )
    areas = np.outer(tall, wide)[None, :, :, None]
    return (sums / areas / 255).reshape(count, -1).astype(np.float32)


def _sizes(groups: Mapping[str, Sequence[MiningCandidate]]) -> dict[str, int]:
    return {category: len(group) for category, group in groups.items()}


def _why(candidate: MiningCandidate) -> str:
    seen = f"confidence {candidate.confidence:.2f}, uncertainty {candidate.uncertainty:.2f}"
    return f"{candidate.category or 'uncategorised'}: {seen}"


def _why_random(candidate: MiningCandidate) -> str:
    seen = f"random sample below the threshold ({candidate.confidence:.2f})"
    return f"{candidate.category or 'uncategorised'}: {seen}"


def _in_turns(groups: Sequence[Sequence[tuple[MiningCandidate, str]]]) -> list[tuple[MiningCandidate, str]]:
    """One of each group, then the second of each, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]
