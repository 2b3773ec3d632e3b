"""Statistics of blind pairwise judging (torch-free).

Votes on one pair are not independent of each other, so rates, intervals and tests count pairs: each has
the winner that most of its raters chose, or is a tie.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from dataengine.records import Vote

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one question of a study.

    `win_rate` is the share of "after" among decided pairs with its 95 % Wilson interval, `p_value` that
    of the two-sided sign test; all of them None while no pair is decided. `agreement` is Krippendorff's
    α of the raters, None while no two of them saw the same pair.
    """

    question: str
    votes: int
    raters: int
    after: int
    before: int
    ties: int
    win_rate: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    agreement: float | None


def verdict(votes: Iterable[Vote], question: str) -> Verdict:
    """Sum up the votes on one question. A rater's later vote on a pair replaces the earlier one."""
    latest: dict[tuple[int, str], Vote] = {}
    for vote in sorted((v for v in votes if v.question == question), key=lambda v: v.created):
        latest[vote.pair, vote.rater] = vote
    by_pair: dict[int, dict[str, str]] = defaultdict(dict)
    for (pair, rater), vote in latest.items():
        by_pair[pair][rater] = vote.choice
    winners = Counter(majority(list(choices.values())) for choices in by_pair.values())
    after, before = winners["after"], winners["before"]
    decided = after + before
    return Verdict(
        question=question,
        votes=len(latest),
        raters=len({rater for _, rater in latest}),
        after=after,
        before=before,
        ties=winners["tie"],
        win_rate=after / decided if decided else None,
        interval=wilson(after, decided) if decided else None,
        p_value=sign_test(after, before) if decided else None,
        agreement=krippendorff([list(choices.values()) for choices in by_pair.values()]),
    )


def majority(choices: Sequence[str]) -> str:
    """What most chose; "tie" where "before" and "after" are even or ties lead."""
    counted = Counter(choices)
    if counted["after"] == counted["before"] or counted["tie"] > max(counted["after"], counted["before"]):
        return "tie"
    return "after" if counted["after"] > counted["before"] else "before"


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of the sign test: ties left out, both outcomes equally likely."""
    n = wins + losses
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, tail / 2 ** (n - 1))


def krippendorff(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's α for nominal answers; units may have different numbers of raters.

    1 is agreement, 0 is chance. None when no unit has two answers; 1 when only one answer ever occurs.
    """
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        return None
    coincidences: dict[tuple[str, str], float] = defaultdict(float)
    for unit in units:
        for first, second in combinations(unit, 2):
            coincidences[first, second] += 1 / (len(unit) - 1)
            coincidences[second, first] += 1 / (len(unit) - 1)
    totals: dict[str, float] = defaultdict(float)
    for (answer, _), weight in coincidences.items():
        totals[answer] += weight
    n = sum(totals.values())
    observed = sum(weight for (a, b), weight in coincidences.items() if a != b) / n
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b) / (n * (n - 1))
    return 1.0 if expected == 0 else 1 - observed / expected


def mean_opinion(choices: Sequence[str], scores: Mapping[str, int] | None = None) -> float:
    """Mean opinion score in [-1, 1]: before −1, tie 0, after +1 (Focus-N-Fix's human evaluation)."""
    scores = scores or {"before": -1, "tie": 0, "after": 1}
    return sum(scores[choice] for choice in choices) / len(choices)
