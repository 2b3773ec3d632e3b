"""Study statistics against textbook values."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from dataengine.quality.config import StudyDesign
from dataengine.quality.study import (
    checks_of,
    filter_votes,
    judge_question,
    krippendorff,
    majority_choice,
    minimum_over_aspects,
)
from dataengine.records import Vote
from dataengine.statistics import wilson


def vote(pair, rater, choice, question="artifacts", created=0.0):
    return Vote(study_id="s", pair=pair, rater=rater, question=question, choice=choice, created=created)


def test_krippendorff():
    """The nominal example of Krippendorff (2011): two observers, ten units."""
    first, second = "0100000000", "1110010100"
    said = {"0": "before", "1": "after"}
    units = [[said[one], said[other]] for one, other in zip(first, second, strict=True)]
    assert krippendorff(units) == pytest.approx(0.095, abs=1e-3)
    assert krippendorff([["tie", "tie"], ["after", "after", "after"]]) == 1.0
    assert krippendorff([["tie"], ["after"]]) is None and krippendorff([["tie", "tie"]]) is None
    assert krippendorff([["before", "after"]] * 10) < 0


def test_majority():
    assert majority_choice(["after", "after", "before"]) == "after"
    assert majority_choice(["after", "before"]) == "tie"
    assert majority_choice(["after", "tie", "tie"]) == "tie"
    assert majority_choice(["before", "tie"]) == "before"


def test_verdict_counts_pairs_not_votes():
    votes = [
        *(vote(0, rater, "after") for rater in ("ann", "bob", "cyd")),
        vote(1, "ann", "after"),
        vote(1, "bob", "tie"),
        vote(2, "ann", "before"),
        vote(3, "ann", "tie"),
        vote(0, "ann", "before", question="quality"),
    ]
    found = judge_question(votes, "artifacts")
    assert (found.after, found.before, found.ties) == (2, 1, 1)
    assert (found.votes, found.raters) == (7, 3)
    assert found.win_rate == pytest.approx(2 / 3) and found.p_value == 1.0
    assert found.interval == wilson(2, 3)
    assert judge_question(votes, "quality").before == 1


def test_a_later_vote_replaces_the_earlier_one():
    found = judge_question(
        [vote(0, "ann", "after", created=2.0), vote(0, "ann", "before", created=1.0)], "artifacts"
    )
    assert (found.after, found.before, found.votes) == (1, 0, 1)


def test_no_votes_decide_nothing():
    found = judge_question([], "quality")
    assert (found.win_rate, found.interval, found.p_value, found.agreement) == (None, None, None, None)


def test_opinions_margins_and_the_minimum_over_aspects_by_hand():
    """Three prompts; the first has two pairs. Scores: −1 before, 0 tie, +1 after."""
    prompts = {0: "a hand", 1: "a hand", 2: "a mug", 3: "a sign"}
    said = {  # pair: artifacts, alignment by ann, bob, cyd
        0: (["after", "after", "after"], ["tie", "tie", "tie"]),  # means 1, 0
        1: (["after", "tie", "before"], ["after", "after", "after"]),  # means 0, 1
        2: (["before", "before", "before"], ["after", "tie", "tie"]),  # means −1, 1/3
        3: (["after", "after", "tie"], ["before", "tie", "tie"]),  # means 2/3, −1/3
    }
    votes = [
        vote(pair, rater, choice, question)
        for pair, answers in said.items()
        for question, choices in zip(("artifacts", "alignment"), answers, strict=True)
        for rater, choice in zip(("ann", "bob", "cyd"), choices, strict=True)
    ]
    artifacts = judge_question(votes, "artifacts", 3, prompts)
    assert artifacts.mean_opinion == pytest.approx((0.5 - 1 + 2 / 3) / 3)
    assert (artifacts.improves, artifacts.degrades, artifacts.pairs) == (1, 1, 4)
    assert (
        judge_question(votes, "artifacts", 2).improves,
        judge_question(votes, "artifacts", 2).degrades,
    ) == (2, 1)
    lowest = [min(0.5, 0.5), min(-1, 1 / 3), min(2 / 3, -1 / 3)]
    found = minimum_over_aspects(votes, ("artifacts", "alignment"), prompts)
    assert found == pytest.approx(sum(lowest) / 3)
    assert minimum_over_aspects(votes[:3], ("artifacts", "alignment"), prompts) is None


def test_raters_who_fail_attention_checks_are_left_out():
    votes = [
        *(vote(pair, rater, "after") for pair in (0, 1) for rater in ("ann", "bob")),
        vote(2, "ann", "after"),
        vote(3, "ann", "before"),
        vote(2, "bob", "before"),
        vote(3, "bob", "tie"),
        vote(2, "bob", "after", question="alignment"),
    ]
    assert checks_of(votes, 2) == {"ann": (1, 2), "bob": (0, 2)}
    kept, careless = filter_votes(votes, 2, keep_from=0.5)
    assert careless == ["bob"] and {(one.rater, one.pair) for one in kept} == {("ann", 0), ("ann", 1)}
    assert filter_votes(votes, 2, keep_from=0.0)[1] == []


def test_a_design_must_be_askable():
    assert StudyDesign().questions == ("artifacts", "quality") and StudyDesign().raters_a_pair == 11
    with pytest.raises(ValidationError, match="one or more questions"):
        StudyDesign(questions=())
    with pytest.raises(ValidationError, match="attention checks need"):
        StudyDesign(questions=("safety",))
    assert StudyDesign(questions=("safety",), checks=0).checks == 0


def test_it_stays_light():
    code = "import sys, dataengine.quality.study; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
