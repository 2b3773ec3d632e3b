"""Pseudo-labels, dynamic shrink and strong augmentation over few and noisy labels, against as many updates
without them.

The cells of the goals by default; with `FULL=1` labels × noise × world × what is on, three seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tests.bench import regime_data as data
from tests.bench.harness import Figure, curve, figure, full
from tests.bench.regime_data import Noise, World
from tests.bench.regime_measures import ap_ratio, crossing, error_ratio, pixel_ap
from tests.bench.regime_training import Clean, Labels, Measured, Pseudo, Training, measured

LABELS = (30, 150, 600)
NOISES: tuple[Noise, ...] = ("low", "middle", "high")
WORLDS: tuple[World, ...] = ("standard", "small")
PARTS: dict[str, tuple[bool, float, float]] = {
    "control": (False, 0.0, 0.0),
    "control, shrink": (False, 0.5, 0.0),
    "pseudo": (True, 0.0, 0.0),
    "pseudo, shrink": (True, 0.5, 0.0),
    "pseudo, strong": (True, 0.0, 0.5),
    "pseudo, shrink, strong": (True, 0.5, 0.5),
}
"""What is on in a cell: pseudo-labels, and the probabilities of dynamic shrink and strong augmentation.
Strong augmentation applies to pseudo-labels alone."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of data and trainings, the same on both sides of every comparison."""

    clean: int = 600
    unlabelled: int = 1500
    pool: int = 1200
    teacher_steps: int = 200
    steps: int = 300
    benchmark: int = 400
    labels: tuple[int, ...] = LABELS


SMALL = Sizes(12, 20, 24, 2, 2, 16, (6, 12, 18))


@dataclass(frozen=True)
class Cell:
    """One number of labels, noise and world."""

    labels: int
    noise: Noise
    world: World

    def teacher(self, sizes: Sizes, seed: int) -> Training:
        """The first detector, trained on the labels and on artifact-free images."""
        return Training(f"teacher-{self._name}", self._labelled(sizes, seed), sizes.teacher_steps, seed=seed)

    def training(self, parts: str, sizes: Sizes, seed: int) -> Training:
        """The teacher, trained on with what `parts` names."""
        pseudo, shrink, strong = PARTS[parts]
        examples = self._labelled(sizes, seed)
        if pseudo:
            examples = (*examples, Pseudo(sizes.unlabelled, self.world, seed))
        return Training(
            f"{parts}-{self._name}",
            examples,
            sizes.steps,
            self.teacher(sizes, seed),
            shrink=shrink,
            strong=strong,
            seed=seed,
        )

    def measured(self, parts: str, sizes: Sizes, seeds: Sequence[int]) -> list[Measured]:
        """The figures of each benchmark image, one entry a seed."""
        pool = data.benchmark(sizes.benchmark, self.world)
        return [
            measured(self.training(parts, sizes, seed).trained(), f"benchmark-{self.world}", pool)
            for seed in seeds
        ]

    @property
    def _name(self) -> str:
        return f"{self.world}-{self.labels}-{self.noise}"

    def _labelled(self, sizes: Sizes, seed: int) -> tuple[Clean, Labels]:
        labels = Labels(self.labels, self.noise, self.world, sizes.pool, seed)
        return Clean(sizes.clean, seed), labels


@dataclass(frozen=True)
class Comparison:
    """A figure: what `parts` names over what `base` names, in one cell."""

    id: str
    cell: Cell
    base: str
    parts: str
    goal: str = ""


def comparisons(sizes: Sizes) -> list[Comparison]:
    """The goals. "At 30" is the world as it is: flaws of 1 to 3 % are a variant of the grid.

    Dynamic shrink is compared at the most labels: with 30 a detector of small flaws finds nothing (pixel AP
    0.05 on validation), and nothing could be gained.
    """
    standard, small = Cell(sizes.labels[0], "middle", "standard"), Cell(sizes.labels[-1], "middle", "small")
    gain, shrink = "goal ≤ 0.85, interval below 1; ", "goal ≤ 0.95, interval below 1; "
    return [
        Comparison("pseudo_gain_at_30", standard, "control", "pseudo", gain),
        Comparison("shrink_gain_small", small, "pseudo", "pseudo, shrink", shrink),
    ]


def seeds_of_run() -> list[int]:
    """One seed, three with `FULL=1`."""
    return [0, 1, 2] if full() else [0]


def trainings(quick: bool) -> list[Training]:
    """All that this part measures, teachers first."""
    sizes = SMALL if quick else Sizes()
    pairs = [(each.cell, parts) for each in comparisons(sizes) for parts in (each.base, each.parts)]
    if full():
        grid = product(WORLDS, NOISES, sizes.labels, PARTS)
        pairs += [(Cell(labels, noise, world), parts) for world, noise, labels, parts in grid]
    return [
        training
        for seed in seeds_of_run()
        for cell, parts in pairs
        for training in (cell.teacher(sizes, seed), cell.training(parts, sizes, seed))
    ]


def figures(quick: bool) -> list[Figure]:
    """What pseudo-labels and dynamic shrink gain; with `FULL=1` the curves and where they cross 1."""
    sizes, seeds = (SMALL if quick else Sizes()), seeds_of_run()
    found = [row for each in comparisons(sizes) for row in _compared(each, sizes, seeds)]
    return [*found, *_grid(sizes, seeds)] if full() else found


def _compared(asked: Comparison, sizes: Sizes, seeds: Sequence[int]) -> tuple[Figure, Figure]:
    """The ratio of errors and, beside it, of pixel AP."""
    cell = asked.cell
    before, after = (cell.measured(parts, sizes, seeds) for parts in (asked.base, asked.parts))
    errors = [100 * sum(each["mse"].mean() for each in side) / len(side) for side in (before, after)]
    aps = [pixel_ap(side) for side in (before, after)]
    where = f"{cell.labels} labels, {cell.noise} noise, {cell.world} flaws"
    note = f"{asked.goal}{asked.parts} over {asked.base}, {where}"
    return (
        error_ratio(asked.id, before, after, f"{note}; MSE × 100 {errors[0]:.3f} → {errors[1]:.3f}"),
        ap_ratio(f"{asked.id}_ap", before, after, f"pixel AP {aps[0]:.3f} → {aps[1]:.3f}; not below 1"),
    )


def _grid(sizes: Sizes, seeds: Sequence[int]) -> list[Figure]:
    """The ratios of every cell as a CSV file, and for each curve the labels at which it crosses 1."""
    rows: list[tuple[str, str, str, int, float, float, float, float]] = []
    found = []
    ways = [("control", parts) for parts in PARTS if parts != "control"]
    ways += [("pseudo", parts) for parts in PARTS if parts.startswith("pseudo, ")]
    for world, noise, (base, parts) in product(WORLDS, NOISES, ways):
        ratios = []
        for labels in sizes.labels:
            cell = Cell(labels, noise, world)
            before, after = (cell.measured(each, sizes, seeds) for each in (base, parts))
            ratio = error_ratio("ratio", before, after, "")
            low, high = ratio.interval or (0.0, 0.0)
            ap = float(ap_ratio("ap", before, after, "").value)
            rows.append((world, noise, f"{parts} over {base}", labels, float(ratio.value), low, high, ap))
            ratios.append(float(ratio.value))
        at = crossing(sizes.labels, ratios)
        words = "below 1 at all" if at is None else "at none" if at == 0 else f"crosses 1 at {at:.0f}"
        id = f"crossing_{world}_{noise}_{parts}_over_{base}".replace(", ", "_")
        note = ", ".join(f"{labels}: {ratio:.3f}" for labels, ratio in zip(sizes.labels, ratios, strict=True))
        found.append(figure(id, words, unit="labels", n=len(seeds), note=note))
    names = ("world", "noise", "ratio", "labels", "error", "low", "high", "ap")
    file = curve("regimes", dict(zip(names, zip(*rows, strict=True), strict=True)))
    return [*found, figure("grid", len(rows), n=len(seeds), note=f"ratios with intervals: {file}")]
