"""Training examples for the detector, and the sampling of batches. NumPy only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dataengine.errors import ConfigRefused, InputRefused
from dataengine.records import THRESHOLD, Report, SampleKind, no_report


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The metadata of an example that sampling needs, without its pixels."""

    kind: SampleKind
    category: str | None = None
    positive: bool = False
    """Whether the target reaches `THRESHOLD` anywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One training example."""

    image: np.ndarray
    """uint8 HW3, RGB."""
    target: np.ndarray
    """float32 HW in [0, 1]: a mask, or a detector's map."""
    kind: SampleKind
    """Source of the target."""
    category: str | None = None
    max_confidence: float = 0.0
    """The current detector's highest confidence in the image; decides on dynamic shrink."""
    weight: float = 1.0
    """Weight of its loss."""
    label_map: np.ndarray | None = None
    """uint8 HW, the annotated classes; not needed for training."""

    def facts(self) -> Facts:
        """Its metadata for sampling."""
        return Facts(kind=self.kind, category=self.category, positive=bool((self.target >= THRESHOLD).any()))


class Samples(Protocol):
    """A training set. `facts` must be cheap: it is called for every example before training starts."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """The example, decoded."""

    def facts(self, index: int) -> Facts:
        """Its kind, category and sign, without decoding it."""


Maps = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
"""Predicts artifact maps, float HW in [0, 1], of uint8 HW3 images."""


def with_maps(
    samples: Samples, maps: Maps, batch: int = 32, report: Report = no_report
) -> Iterator[tuple[Sample, np.ndarray]]:
    """Every example with its predicted map, in order; `batch` of them are in memory at a time."""
    for first in range(0, len(samples), batch):
        chunk = [samples.sample(index) for index in range(first, min(first + batch, len(samples)))]
        yield from zip(chunk, maps([sample.image for sample in chunk]), strict=True)
        report(first + len(chunk), len(samples), "evaluating")


class MemorySamples:
    """Examples held in memory."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = list(samples)
        self._facts = [sample.facts() for sample in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> Sample:
        """The example at `index`."""
        return self._samples[index]

    def facts(self, index: int) -> Facts:
        """The facts of the example at `index`."""
        return self._facts[index]


@dataclass(frozen=True, slots=True)
class BalancedSampler:
    """Samples batches balanced by kind and, within a kind, by category × positive/negative.

    The batch of a step depends on the seed and the step alone, so training resumes exactly without stored
    state.
    """

    cells: Mapping[SampleKind, tuple[np.ndarray, ...]]
    """Per kind, the indices of each category × sign."""
    shares: Mapping[SampleKind, float]
    """Share of a batch per kind; sums to 1."""
    balance: float
    batch: int
    seed: int

    @classmethod
    def over(
        cls, samples: Samples, *, mixture: Mapping[SampleKind, float], balance: float, batch: int, seed: int
    ) -> "BalancedSampler":
        """Group the examples. The share of a kind without examples goes to the others.

        Raises `InputRefused` for an empty set, `ConfigRefused` when `mixture` has no share for any kind in
        the set.
        """
        if len(samples) == 0:
            raise InputRefused(
                "the training set is empty; publish a snapshot with at least one labelled image"
            )
        groups: dict[SampleKind, dict[tuple[str, bool], list[int]]] = {}
        for index in range(len(samples)):
            facts = samples.facts(index)
            cell = (facts.category or "", facts.positive)
            groups.setdefault(facts.kind, {}).setdefault(cell, []).append(index)
        shares = {kind: mixture.get(kind, 0.0) for kind in sorted(groups)}
        total = sum(shares.values())
        if total <= 0:
            raise ConfigRefused(
                f"the mixture {dict(mixture)} gives no share to any kind in the set ({sorted(groups)})"
            )
        return cls(
            cells={
                kind: tuple(np.array(indices) for _, indices in sorted(group.items()))
                for kind, group in groups.items()
            },
            shares={kind: share / total for kind, share in shares.items()},
            balance=balance,
            batch=batch,
            seed=seed,
        )

    def indices(self, step: int) -> list[int]:
        """Indices of the `batch` examples of that step, sampled with replacement.

        Kinds get floor or ceil of their share (systematic sampling). A category × sign of n examples has
        weight n^(1 − balance): 0 follows the data, 1 is uniform.
        """
        rng = np.random.default_rng((self.seed, step))
        kinds = list(self.shares)
        points = (np.arange(self.batch) + rng.random()) / self.batch
        edges = np.cumsum([self.shares[kind] for kind in kinds])
        picked = np.minimum(np.searchsorted(edges, points, side="right"), len(kinds) - 1)
        drawn = [self._draw(self.cells[kinds[position]], rng) for position in picked]
        return [int(index) for index in rng.permutation(drawn)]

    def _draw(self, cells: tuple[np.ndarray, ...], rng: np.random.Generator) -> int:
        weights = np.array([len(cell) for cell in cells], dtype=float) ** (1 - self.balance)
        return rng.choice(cells[rng.choice(len(cells), p=weights / weights.sum())])
