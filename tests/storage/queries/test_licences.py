"""Licences of training images, counted, on both databases."""

from typing import Any

import pytest

from dataengine.records import Label
from storage.catalog import Catalog
from storage.queries.licences import licences_of, training_licences
from tests.storage.builders import image

IMAGES: dict[str, dict[str, Any]] = {
    "real": {"source": "real", "split": "train", "licence": "CC0-1.0"},
    "labelled": {"split": "train", "licence": "CC-BY-NC-4.0"},
    "labelled too": {"split": "train", "licence": "CC-BY-NC-4.0"},
    "unstated": {"split": "train", "source": "real"},
    "nobody's": {"split": "train", "licence": "MIT"},
    "held out": {"split": "validation", "source": "real", "licence": "GPL"},
}


@pytest.fixture
def stocked(catalog: Catalog) -> Catalog:
    catalog.images.add_many(image(id, **values) for id, values in IMAGES.items())
    for id in ("labelled", "labelled too"):
        for author in ("ada", "ben"):
            catalog.labels.submit(Label(image_id=id, author=author, height=4, width=6, clean=True))
    return catalog


def test_images_that_training_uses_count_once(stocked: Catalog) -> None:
    assert training_licences(stocked) == {"CC-BY-NC-4.0": 2, "CC0-1.0": 1, "": 1}


def test_licences_of_named_images(stocked: Catalog) -> None:
    assert licences_of(stocked, []) == {}
    assert licences_of(stocked, IMAGES) == {"CC-BY-NC-4.0": 2, "CC0-1.0": 1, "MIT": 1, "GPL": 1, "": 1}
    many = [*IMAGES, *(f"unknown {number}" for number in range(2500))]
    assert licences_of(stocked, many) == licences_of(stocked, IMAGES)
