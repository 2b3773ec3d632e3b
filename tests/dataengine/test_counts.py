"""Counts in sentences."""

import pytest

from dataengine.records import count_of


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "held-out pair", "2 held-out pairs"),
        (1200, "file", "1,200 files"),
    ],
)
def test_a_noun_takes_an_s_but_for_one(number: int, noun: str, said: str) -> None:
    assert count_of(number, noun) == said
