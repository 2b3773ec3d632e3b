"""Strata of a benchmark."""

import pytest

from dataengine.curation.stratify import BANDS, BenchmarkCandidate, bands_at, sample_strata, stratum_of
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


def test_bands_lie_on_both_sides_of_the_detectors_threshold() -> None:
    assert bands_at(0.5) == BANDS
    quiet = bands_at(0.08)
    names = [stratum_of("hand", confidence, quiet) for confidence in (0.03, 0.05, 0.1, 0.6)]
    assert names == ["hand 0.00–0.04", "hand 0.04–0.08", "hand 0.08–0.54", "hand 0.54–1.00"]
