"""Stratified sampling for a benchmark: equally many per category and band of confidence. No dependencies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataengine.errors import InputRefused
from dataengine.records import digest

BANDS = (0.25, 0.5, 0.75)
"""Edges of the bands of maximum confidence, for a detector that flags from 0.5."""


def bands_at(threshold: float) -> tuple[float, float, float]:
    """The edges for a detector that flags from `threshold`: half of it, it, and halfway to 1."""
    return threshold / 2, threshold, (1 + threshold) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkCandidate:
    """A candidate image for a benchmark."""

    image_id: str
    category: str
    confidence: float
    """Highest predicted confidence, in [0, 1]."""
    reserved: bool = False
    """Taken first, since it is already excluded from training."""


def stratum_of(category: str, confidence: float, bands: Sequence[float] = BANDS) -> str:
    """The name of a stratum, "hand 0.25–0.50"."""
    edges = [0.0, *bands, 1.0]
    band = sum(confidence >= edge for edge in bands)
    return f"{category or 'uncategorised'} {edges[band]:.2f}–{edges[band + 1]:.2f}"


def sample_strata(
    candidates: Iterable[BenchmarkCandidate], per_stratum: int, seed: int = 0, bands: Sequence[float] = BANDS
) -> list[tuple[BenchmarkCandidate, str]]:
    """At most `per_stratum` candidates of each stratum with its name, by `seed`, reserved ones first.

    Without the bands a benchmark would hold only images that detectors flag, and miss what they overlook.
    Raises `InputRefused` for fewer than one per stratum.
    """
    if per_stratum < 1:
        raise InputRefused(
            "per_stratum must be 1 or more; a benchmark needs at least one image of each stratum"
        )
    strata: dict[str, list[BenchmarkCandidate]] = {}
    for candidate in candidates:
        strata.setdefault(stratum_of(candidate.category, candidate.confidence, bands), []).append(candidate)
    chosen: list[tuple[BenchmarkCandidate, str]] = []
    for name in sorted(strata):
        drawn = sorted(
            strata[name], key=lambda one: (not one.reserved, digest("stratum", seed, one.image_id))
        )
        chosen += [(one, name) for one in drawn[:per_stratum]]
    return chosen
