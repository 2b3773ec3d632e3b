"""Robust z, Holm's correction, and strata of a benchmark."""

import pytest

from dataengine.curation.evidence import holm, outliers
from dataengine.curation.stratify import BenchmarkCandidate, stratified, stratum_of
from dataengine.errors import InputRefused


def test_the_hard_category_stands_out_although_others_are_hard_too() -> None:
    found = outliers(
        {"hand": 0.8, "face": 0.75, "mug": 0.2, "tree": 0.22, "car": 0.18, "sign": 0.21, "cat": 0.19}
    )
    assert found["hand"].z > 10 and found["hand"].p < 1e-6 > found["face"].p
    assert found["mug"].p > 0.5 and outliers({"a": 0.1, "b": 0.9}) == {}


def test_equal_categories_stand_out_from_nothing() -> None:
    found = outliers({"a": 0.5, "b": 0.505, "c": 0.5})
    assert all(one.p > 0.5 for one in found.values())


def test_holm_steps_down() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {
        "a": pytest.approx(0.03),
        "c": pytest.approx(0.06),
        "b": pytest.approx(0.06),
    }


def test_every_stratum_has_its_share_and_reserved_images_come_first() -> None:
    candidates = [
        BenchmarkCandidate(image_id=f"{category}{n}", category=category, confidence=n / 40, reserved=n == 39)
        for category in ("hand", "mug")
        for n in range(40)
    ]
    chosen = stratified(candidates, 3, seed=1)
    names = [name for _, name in chosen]
    assert len(chosen) == 24 and {names.count(name) for name in names} == {3}
    assert {"hand39", "mug39"} <= {one.image_id for one, _ in chosen}
    assert [one for one, _ in stratified(candidates, 3, seed=2)] != [one for one, _ in chosen]
    assert stratum_of("", 1.0) == "uncategorised 0.75–1.00"
    with pytest.raises(InputRefused):
        stratified(candidates, 0)
