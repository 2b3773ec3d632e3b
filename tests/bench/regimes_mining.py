"""Mining's terms one by one and together, against random images of the same hard categories."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dataengine.curation.config import MiningConfig
from tests.bench import regime_data as data
from tests.bench import regimes_injected
from tests.bench.harness import Figure, figure
from tests.bench.regime_measures import ap_ratio, error_ratio, labels_ratio, pixel_ap
from tests.bench.regime_training import THRESHOLD, Clean, Labels, Measured, Mined, Training, measured
from tests.bench.regimes_labels import seeds_of_run

TERMS = ("confidence", "uncertainty", "disagreement", "diversity")


@dataclass(frozen=True)
class Sizes:
    """Sizes of data and trainings."""

    clean: int = 600
    pool: int = 2000
    counts: tuple[int, ...] = (75, 150, 300)
    """Labels chosen by all terms."""
    random: int = 300
    """Labels at random that these are compared with."""
    budget: int = 150
    """Labels of each term alone."""
    steps: int = 120
    benchmark: int = 400
    injected: regimes_injected.Sizes = field(default_factory=regimes_injected.Sizes)


SMALL = Sizes(12, 60, (6, 12), 12, 6, 2, 16, regimes_injected.SMALL)


def second(sizes: Sizes, seed: int) -> Training:
    """The second detector, for disagreement: that of injected artifacts, which no label has made."""
    return regimes_injected.training(sizes.injected, seed)


def by_terms(terms: Sequence[str], count: int, sizes: Sizes, seed: int) -> Training:
    """The first detector, trained on exact labels that these terms chose; all weigh alike."""
    weights = {term: float(term in terms) for term in TERMS}
    # Seven tenths from the first detector's operating point on, as in the demo's round.
    config = MiningConfig(budget=count, explore=0.3, threshold=THRESHOLD, seed=seed, **weights)
    mined = Mined(config, second(sizes, seed), sizes.pool, seed)
    name = "all" if len(terms) == len(TERMS) else "-".join(terms)
    return Training(f"mined-{name}-{count}", (Clean(sizes.clean, seed), mined), sizes.steps, seed=seed)


def at_random(count: int, sizes: Sizes, seed: int) -> Training:
    """The first detector, trained on exact labels of random images of hard categories."""
    labels = Labels(count, "none", "standard", sizes.pool, seed)
    return Training(f"random-{count}", (Clean(sizes.clean, seed), labels), sizes.steps, seed=seed)


def trainings(quick: bool) -> list[Training]:
    """All that this part measures."""
    sizes = SMALL if quick else Sizes()
    found: list[Training] = []
    for seed in seeds_of_run():
        found += [
            second(sizes, seed),
            at_random(sizes.random, sizes, seed),
            at_random(sizes.budget, sizes, seed),
        ]
        found += [by_terms(TERMS, count, sizes, seed) for count in sizes.counts]
        found += [by_terms([term], sizes.budget, sizes, seed) for term in TERMS]
    return found


def figures(quick: bool) -> list[Figure]:
    """Labels needed by all terms over those at random, and each term at an equal budget."""
    sizes, seeds = (SMALL if quick else Sizes()), seeds_of_run()
    pool = data.benchmark(sizes.benchmark)

    def of(make: Sequence[Training]) -> list[Measured]:
        return [measured(training.trained(), "benchmark-standard", pool) for training in make]

    everything = [of([by_terms(TERMS, count, sizes, seed) for seed in seeds]) for count in sizes.counts]
    reference = of([at_random(sizes.random, sizes, seed) for seed in seeds])
    budget = of([at_random(sizes.budget, sizes, seed) for seed in seeds])
    means = ", ".join(
        f"{count}: {100 * _error(side):.3f}" for count, side in zip(sizes.counts, everything, strict=True)
    )
    note = (
        f"goal ≤ 0.5; MSE × 100 by labels, all terms {means}; at random {sizes.budget}: "
        f"{100 * _error(budget):.3f}, {sizes.random}: {100 * _error(reference):.3f}"
    )
    found = [labels_ratio("mining_over_random", sizes.counts, everything, sizes.random, reference, note)]
    against = f"over random images of hard categories, {sizes.budget} labels each"
    sides = {
        "all": of([by_terms(TERMS, sizes.budget, sizes, seed) for seed in seeds]),
        **{term: of([by_terms([term], sizes.budget, sizes, seed) for seed in seeds]) for term in TERMS},
    }
    for name, side in sides.items():
        found.append(error_ratio(f"mining_{name}_error", budget, side, f"MSE {against}"))
        found.append(ap_ratio(f"mining_{name}_ap_ratio", budget, side, f"pixel AP {against}"))
    found.append(
        figure("mining_random_ap", pixel_ap(budget), unit="AP", n=len(pool), note=f"{sizes.budget} labels")
    )
    return found


def _error(side: Sequence[Measured]) -> float:
    return float(sum(each["mse"].mean() for each in side) / len(side))
