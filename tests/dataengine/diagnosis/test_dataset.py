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


def sampler(
    balance: float = 1.0,
    batch: int = 16,
    seed: int = 0,
    flawed: float | None = None,
    samples: MemorySamples = UNEVEN,
    **mixture: float,
) -> BalancedSampler:
    return BalancedSampler.over(
        samples,
        mixture=mixture,  # type: ignore[arg-type]
        balance=balance,
        batch=batch,
        seed=seed,
        flawed=flawed,
    )


def of_classes(*classes: int) -> Sample:
    label_map = np.zeros((4, 4), np.uint8)
    label_map[0, : len(classes)] = classes
    return Sample(
        image=np.zeros((4, 4, 3), np.uint8),
        target=(label_map > 0).astype(np.float32),
        kind="true",
        category="hand",
        label_map=label_map,
    )


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


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_the_share_of_flawed_images_is_met_whatever_the_balance(balance: float, share: float) -> None:
    drawn = sampler(balance, flawed=share, true=0.5, pseudo=0.5)
    facts = [UNEVEN.facts(i) for step in range(200) for i in drawn.indices(step)]
    assert np.mean([one.positive for one in facts if one.kind == "true"]) == pytest.approx(share, abs=0.03)
    pseudo = [one for one in facts if one.kind == "pseudo"]
    assert len(pseudo) == len(facts) / 2 and not any(one.positive for one in pseudo)


def test_rare_classes_are_balanced_by_the_rarest_one_of_an_image() -> None:
    """90 images of class 1, 9 of class 2 of which 3 hold class 1 too, and one of class 3 and 1."""
    rows = [of_classes(1)] * 90 + [of_classes(2)] * 6 + [of_classes(1, 2)] * 3 + [of_classes(1, 3)]
    samples = MemorySamples(rows)
    assert [samples.facts(i).classes for i in (0, 90, 96, 99)] == [(1,), (2,), (1, 2), (1, 3)]

    def shares(balance: float) -> list[float]:
        drawn = sampler(balance, true=1.0, samples=samples)
        indices = np.array([i for step in range(300) for i in drawn.indices(step)])
        return [float(np.mean((indices >= a) & (indices < b))) for a, b in ((0, 90), (90, 99), (99, 100))]

    assert shares(0.0) == pytest.approx([0.9, 0.09, 0.01], abs=0.02)
    assert shares(1.0) == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.03)


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
