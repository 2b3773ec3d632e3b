"""Study statistics against textbook values."""

import subprocess
import sys

import pytest

from dataengine.quality.study import krippendorff, majority, mean_opinion, sign_test, verdict, wilson
from dataengine.records import Vote


def vote(pair, rater, choice, question="artifacts", created=0.0):
    return Vote(study_id="s", pair=pair, rater=rater, question=question, choice=choice, created=created)


def test_sign_test():
    assert sign_test(9, 1) == pytest.approx(22 / 1024)
    assert sign_test(5, 5) == 1.0 and sign_test(0, 0) == 1.0
    assert sign_test(10, 0) == pytest.approx(2 / 1024)


def test_wilson():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4) and high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == pytest.approx(1.0) and wilson(0, 0) == (0.0, 1.0)


def test_krippendorff():
    """The nominal example of Krippendorff (2011): two observers, ten units."""
    first, second = "0100000000", "1110010100"
    assert krippendorff([*map(list, zip(first, second, strict=True))]) == pytest.approx(0.095, abs=1e-3)
    assert krippendorff([["a", "a"], ["b", "b", "b"]]) == 1.0
    assert krippendorff([["a", "a"], ["a", "a"]]) == 1.0
    assert krippendorff([["a"], ["b"]]) is None
    assert krippendorff([["a", "b"]] * 10) < 0


def test_majority():
    assert majority(["after", "after", "before"]) == "after"
    assert majority(["after", "before"]) == "tie"
    assert majority(["after", "tie", "tie"]) == "tie"
    assert majority(["before", "tie"]) == "before"


def test_verdict_counts_pairs_not_votes():
    votes = [
        *(vote(0, rater, "after") for rater in ("ann", "bob", "cyd")),
        vote(1, "ann", "after"),
        vote(1, "bob", "tie"),
        vote(2, "ann", "before"),
        vote(3, "ann", "tie"),
        vote(0, "ann", "before", question="quality"),
    ]
    found = verdict(votes, "artifacts")
    assert (found.after, found.before, found.ties) == (2, 1, 1)
    assert (found.votes, found.raters) == (7, 3)
    assert found.win_rate == pytest.approx(2 / 3) and found.p_value == 1.0
    assert found.interval == wilson(2, 3)
    assert verdict(votes, "quality").before == 1


def test_a_later_vote_replaces_the_earlier_one():
    found = verdict(
        [vote(0, "ann", "after", created=2.0), vote(0, "ann", "before", created=1.0)], "artifacts"
    )
    assert (found.after, found.before, found.votes) == (1, 0, 1)


def test_no_votes_decide_nothing():
    found = verdict([], "quality")
    assert (found.win_rate, found.interval, found.p_value, found.agreement) == (None, None, None, None)


def test_mean_opinion():
    assert mean_opinion(["after", "tie", "before", "after"]) == 0.25


def test_it_stays_light():
    code = "import sys, dataengine.quality.study; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
