"""Class balance of a training set: categories whose images are nearly all flawed teach the detector that the
category itself is an artifact (DiffDoctor, Sec. 3.2, data imbalance). No dependencies.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryBalance:
    """A category's positive (flawed) and negative (clean) examples."""

    category: str
    positive: int
    negative: int

    @property
    def positive_share(self) -> float:
        """Share of flawed examples, in [0, 1]."""
        return self.positive / (self.positive + self.negative)

    def negatives_wanted(self, highest_share: float) -> int:
        """Clean examples to add so that the flawed ones make up `highest_share`, in (0, 1], at most."""
        return max(0, ceil(self.positive / highest_share - 1e-9) - self.positive - self.negative)


def balance_of(examples: Iterable[tuple[str, bool]]) -> list[CategoryBalance]:
    """Count (category, is flawed) pairs; the category with the highest flawed share comes first."""
    counts = Counter(examples)
    balances = [
        CategoryBalance(
            category=category, positive=counts[(category, True)], negative=counts[(category, False)]
        )
        for category in {category for category, _ in counts}
    ]
    return sorted(balances, key=lambda each: (-each.positive_share, each.category))
