from collections import Counter

import numpy as np
import pytest

from dataengine.diagnosis.dataset import BalancedSampler, Facts, MemorySamples, Sample
from dataengine.errors import ConfigRefused, InputRefused
from dataengine.records import SampleKind


def a_sample(kind: SampleKind, category: str, flawed: bool) -> Sample:
    return Sample(
        image=np.zeros((4, 4, 3), np.uint8),
        target=np.full((4, 4), float(flawed), np.float32),
        kind=kind,
        category=category,
    )


UNEVEN = MemorySamples(
    [a_sample("true", "hand", True)] * 90
    + [a_sample("true", "hand", False)] * 10
    + [a_sample("pseudo", "tree", False)] * 300
    + [a_sample("real", "tree", False)] * 5
)


def sampler(balance: float = 1.0, batch: int = 16, seed: int = 0, **mixture: float) -> BalancedSampler:
    return BalancedSampler.over(UNEVEN, mixture=mixture, balance=balance, batch=batch, seed=seed)  # type: ignore[arg-type]


def test_facts_of_an_example() -> None:
    assert UNEVEN.facts(0) == Facts(kind="true", category="hand", positive=True)
    assert UNEVEN.facts(95) == Facts(kind="true", category="hand", positive=False)


def test_every_batch_holds_the_shares_asked_for() -> None:
    drawn = sampler(true=0.5, pseudo=0.3, real=0.2)
    for step in range(40):
        counts = Counter(UNEVEN.facts(index).kind for index in drawn.indices(step))
        assert sum(counts.values()) == 16
        assert counts["true"] == 8 and counts["pseudo"] in (4, 5) and counts["real"] in (3, 4)


def test_over_many_batches_rare_shares_are_met_too() -> None:
    drawn = sampler(true=0.9, real=0.1, batch=4)
    counts = Counter(UNEVEN.facts(i).kind for step in range(500) for i in drawn.indices(step))
    assert counts["real"] / 2000 == pytest.approx(0.1, abs=0.02)


def test_kinds_that_are_absent_leave_their_share() -> None:
    drawn = sampler(true=0.4, previous=0.6)
    assert {UNEVEN.facts(index).kind for index in drawn.indices(0)} == {"true"}


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.9), (1.0, 0.5), (0.5, 0.75)])
def test_balance_evens_out_flawed_and_clean(balance: float, share: float) -> None:
    drawn = sampler(balance, true=1.0)
    flawed = [UNEVEN.facts(i).positive for step in range(200) for i in drawn.indices(step)]
    assert np.mean(flawed) == pytest.approx(share, abs=0.03)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again, other = sampler(true=1.0), sampler(true=1.0), sampler(seed=1, true=1.0)
    assert first.indices(7) == again.indices(7)
    assert first.indices(7) != first.indices(8)
    assert first.indices(7) != other.indices(7)


def test_an_empty_set_and_an_empty_mixture_are_refused() -> None:
    with pytest.raises(InputRefused, match="empty"):
        BalancedSampler.over(MemorySamples([]), mixture={"true": 1.0}, balance=0, batch=1, seed=0)
    with pytest.raises(ConfigRefused, match="no share"):
        sampler(previous=1.0)
