"""Training examples for the detector, and the sampling of batches. NumPy only."""

from collections import Counter
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
    classes: tuple[int, ...] = ()
    """The annotated classes that occur, where they are known."""


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
        return Facts(
            kind=self.kind,
            category=self.category,
            positive=bool((self.target >= THRESHOLD).any()),
            classes=() if self.label_map is None else classes_in(self.label_map),
        )


def classes_in(label_map: np.ndarray) -> tuple[int, ...]:
    """The classes that occur in a label map, uint8 HW, ascending, without 0."""
    return tuple(int(number) for number in np.unique(label_map) if number)


class Samples(Protocol):
    """A training set. `facts` must be cheap: it is called for every example before training starts."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """The example, decoded."""

    def facts(self, index: int) -> Facts:
        """Its kind, category, sign and classes, without decoding its image."""


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
class Cell:
    """Examples of one kind that are alike in category, rarest class and sign."""

    indices: np.ndarray
    chance: float
    """Probability that an example of the kind is drawn from this cell."""


@dataclass(frozen=True, slots=True)
class BalancedSampler:
    """Samples batches balanced by kind and, within a kind, by category × rarest class × flawed/clean.

    The rarest class of an image is that of its classes which the fewest images of its kind contain, so that
    rare classes do not drown in common ones (effective class balance, Cui et al. 2019, at the level of
    images).

    The batch of a step depends on the seed and the step alone, so training resumes exactly without stored
    state.
    """

    cells: Mapping[SampleKind, tuple[Cell, ...]]
    shares: Mapping[SampleKind, float]
    """Share of a batch per kind; sums to 1."""
    batch: int
    seed: int

    @classmethod
    def over(
        cls,
        samples: Samples,
        *,
        mixture: Mapping[SampleKind, float],
        balance: float,
        batch: int,
        seed: int,
        flawed: float | None = None,
    ) -> "BalancedSampler":
        """Group the examples. The share of a kind without examples goes to the others.

        `flawed` is the share of flawed images within a kind that has flawed and clean ones; None leaves it to
        `balance`. Raises `InputRefused` for an empty set, `ConfigRefused` when `mixture` has no share for any
        kind in the set.
        """
        if len(samples) == 0:
            raise InputRefused(
                "the training set is empty; publish a snapshot with at least one labelled image"
            )
        kinds: dict[SampleKind, list[tuple[int, Facts]]] = {}
        for index in range(len(samples)):
            facts = samples.facts(index)
            kinds.setdefault(facts.kind, []).append((index, facts))
        shares = {kind: mixture.get(kind, 0.0) for kind in sorted(kinds)}
        total = sum(shares.values())
        if total <= 0:
            raise ConfigRefused(
                f"the mixture {dict(mixture)} gives no share to any kind in the set ({sorted(kinds)})"
            )
        return cls(
            cells={kind: _cells(rows, balance, flawed) for kind, rows in kinds.items()},
            shares={kind: share / total for kind, share in shares.items()},
            batch=batch,
            seed=seed,
        )

    def indices(self, step: int) -> list[int]:
        """Indices of the `batch` examples of that step, sampled with replacement.

        Kinds get floor or ceil of their share (systematic sampling). A cell of n examples has weight
        n^(1 − balance): 0 follows the data, 1 is uniform.
        """
        rng = np.random.default_rng((self.seed, step))
        kinds = list(self.shares)
        points = (np.arange(self.batch) + rng.random()) / self.batch
        edges = np.cumsum([self.shares[kind] for kind in kinds])
        picked = np.minimum(np.searchsorted(edges, points, side="right"), len(kinds) - 1)
        drawn = [_draw(self.cells[kinds[position]], rng) for position in picked]
        return [int(index) for index in rng.permutation(drawn)]


def _cells(rows: Sequence[tuple[int, Facts]], balance: float, flawed: float | None) -> tuple[Cell, ...]:
    """The cells of one kind; their probabilities sum to 1."""
    images = Counter(number for _, facts in rows for number in facts.classes)
    groups: dict[tuple[str, int, bool], list[int]] = {}
    for index, facts in rows:
        rarest = min(facts.classes, key=lambda number: (images[number], number), default=0)
        groups.setdefault((facts.category or "", rarest, facts.positive), []).append(index)
    keys = sorted(groups)
    weights = np.array([len(groups[key]) for key in keys], dtype=float) ** (1 - balance)
    positive = np.array([key[2] for key in keys])
    if flawed is not None and positive.any() and not positive.all():
        weights[positive] *= flawed / weights[positive].sum()
        weights[~positive] *= (1 - flawed) / weights[~positive].sum()
    chances = weights / weights.sum()
    return tuple(
        Cell(np.array(groups[key]), float(chance)) for key, chance in zip(keys, chances, strict=True)
    )


def _draw(cells: tuple[Cell, ...], rng: np.random.Generator) -> int:
    return rng.choice(cells[rng.choice(len(cells), p=[cell.chance for cell in cells])].indices)
