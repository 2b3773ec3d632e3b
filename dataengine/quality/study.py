"""Statistics of blind pairwise judging (torch-free).

Votes on one pair are dependent, so rates, intervals and tests count pairs: a pair's winner is the majority of
its raters, or it is a tie. Opinion scores and the vote-based classes are those of Focus-N-Fix, section 4.4:
−1 for the untreated image, 0 for no difference, +1 for the treated one.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.curation.agreement import krippendorff_alpha
from dataengine.records import Vote
from dataengine.statistics import sign_test, wilson

SCORES = {"before": -1, "tie": 0, "after": 1}
SPOILED = frozenset({"artifacts", "quality"})
"""Questions on which an attention check's unspoiled image is the better one."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one question of a study.

    `win_rate` is the share of "after" among decided pairs with its 95 % Wilson interval, `p_value` that of
    the two-sided sign test; all of them None while no pair is decided. `mean_opinion` is the mean over
    prompts of the prompt's mean score in [-1, 1], None without votes. `improves` and `degrades` count the
    pairs in which one image leads by at least the margin in votes; the others are similar. `agreement` is
    Krippendorff's α of the raters, None where it is not defined.
    """

    question: str
    votes: int
    raters: int
    pairs: int
    after: int
    before: int
    ties: int
    win_rate: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    mean_opinion: float | None
    improves: int
    degrades: int
    agreement: float | None


def judge_question(
    votes: Iterable[Vote], question: str, margin: int = 3, prompts: Mapping[int, str] | None = None
) -> Verdict:
    """Summarise the votes on one question. A rater's later vote on a pair replaces the earlier one.

    `prompts` maps each pair to its prompt; without it, every pair has its own prompt.
    """
    latest = latest_votes(votes, question)
    by_pair = _choices(latest)
    winners = Counter(majority_choice(choices) for choices in by_pair.values())
    leads = [sum(SCORES[choice] for choice in choices) for choices in by_pair.values()]
    after, before = winners["after"], winners["before"]
    decided = after + before
    opinions = prompt_opinions(latest.values(), prompts or {})
    return Verdict(
        question=question,
        votes=len(latest),
        raters=len({rater for _, rater in latest}),
        pairs=len(by_pair),
        after=after,
        before=before,
        ties=winners["tie"],
        win_rate=after / decided if decided else None,
        interval=wilson(after, decided) if decided else None,
        p_value=sign_test(after, before) if decided else None,
        mean_opinion=sum(opinions.values()) / len(opinions) if opinions else None,
        improves=sum(lead >= margin for lead in leads),
        degrades=sum(lead <= -margin for lead in leads),
        agreement=krippendorff(list(by_pair.values())),
    )


def latest_votes(votes: Iterable[Vote], question: str) -> dict[tuple[int, str], Vote]:
    """Every rater's last vote on each pair, by pair and rater."""
    latest: dict[tuple[int, str], Vote] = {}
    for vote in sorted((v for v in votes if v.question == question), key=lambda v: v.created):
        latest[vote.pair, vote.rater] = vote
    return latest


def choices_by_pair(votes: Iterable[Vote], question: str) -> dict[int, list[str]]:
    """The choices of all raters on each pair with votes on the question."""
    return _choices(latest_votes(votes, question))


def _choices(latest: Mapping[tuple[int, str], Vote]) -> dict[int, list[str]]:
    by_pair: dict[int, list[str]] = defaultdict(list)
    for (pair, _), vote in latest.items():
        by_pair[pair].append(vote.choice)
    return by_pair


def prompt_opinions(votes: Iterable[Vote], prompts: Mapping[int, str]) -> dict[str, float]:
    """Mean opinion score of every prompt with votes, in [-1, 1]."""
    scores: dict[str, list[int]] = defaultdict(list)
    for vote in votes:
        scores[prompts.get(vote.pair, f"pair {vote.pair}")].append(SCORES[vote.choice])
    return {prompt: sum(prompt_scores) / len(prompt_scores) for prompt, prompt_scores in scores.items()}


def minimum_over_aspects(
    votes: Sequence[Vote], questions: Collection[str], prompts: Mapping[int, str] | None = None
) -> float | None:
    """Mean over prompts of the lowest mean opinion score among the questions, so that a gain in one aspect
    does not offset a loss in another. Prompts without an answer to every question are excluded; None when all
    are.
    """
    by_question = [
        prompt_opinions([vote for vote in votes if vote.question == question], prompts or {})
        for question in questions
    ]
    if not by_question:
        return None
    complete = set.intersection(*(set(opinions) for opinions in by_question))
    lowest = [min(opinions[prompt] for opinions in by_question) for prompt in complete]
    return sum(lowest) / len(lowest) if lowest else None


def checks_of(votes: Iterable[Vote], pairs: int) -> dict[str, tuple[int, int]]:
    """Attention checks passed and seen by each rater; a check is passed if all its answers are right."""
    answers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for vote in votes:
        if vote.pair >= pairs and vote.question in SPOILED:
            answers[vote.rater, vote.pair].append(vote.choice)
    passed: dict[str, tuple[int, int]] = {}
    for (rater, _), choices in answers.items():
        right, seen = passed.get(rater, (0, 0))
        passed[rater] = right + all(choice == "after" for choice in choices), seen + 1
    return passed


def filter_votes(votes: Sequence[Vote], pairs: int, keep_from: float) -> tuple[list[Vote], list[str]]:
    """The votes on pairs of raters who passed at least that share of their checks, and the excluded
    raters."""
    careless = careless_raters(votes, pairs, keep_from)
    return [vote for vote in votes if vote.pair < pairs and vote.rater not in careless], careless


def careless_raters(votes: Iterable[Vote], pairs: int, keep_from: float) -> list[str]:
    """The raters who passed less than that share of the attention checks that they have seen."""
    return sorted(
        rater for rater, (right, seen) in checks_of(votes, pairs).items() if right < keep_from * seen
    )


def majority_choice(choices: Sequence[str]) -> str:
    """The majority choice; "tie" where "before" and "after" are even or ties lead."""
    counted = Counter(choices)
    if counted["after"] == counted["before"] or counted["tie"] > max(counted["after"], counted["before"]):
        return "tie"
    return "after" if counted["after"] > counted["before"] else "before"


def krippendorff(units: Iterable[Sequence[str]]) -> float | None:
    """Krippendorff's α for nominal answers; units may differ in their number of raters.

    1 is agreement, 0 is chance. None when no unit has two answers, and when only one answer ever occurs.
    """
    answers = list(SCORES)
    together = np.zeros((len(answers), len(answers)))
    for unit in units:
        if len(unit) < 2:
            continue
        counts = np.array([unit.count(answer) for answer in answers], dtype=np.float64)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return krippendorff_alpha(together)
