"""Strata of a benchmark."""

import pytest

from dataengine.curation.stratify import BenchmarkCandidate, sample_strata, stratum_of
from dataengine.errors import InputRefused


def test_every_stratum_has_its_share_and_reserved_images_come_first() -> None:
    candidates = [
        BenchmarkCandidate(image_id=f"{category}{n}", category=category, confidence=n / 40, reserved=n == 39)
        for category in ("hand", "mug")
        for n in range(40)
    ]
    chosen = sample_strata(candidates, 3, seed=1)
    names = [name for _, name in chosen]
    assert len(chosen) == 24 and {names.count(name) for name in names} == {3}
    assert {"hand39", "mug39"} <= {one.image_id for one, _ in chosen}
    assert [one for one, _ in sample_strata(candidates, 3, seed=2)] != [one for one, _ in chosen]
    assert stratum_of("", 1.0) == "uncategorised 0.75–1.00"
    with pytest.raises(InputRefused):
        sample_strata(candidates, 0)
