"""A small catalog that tests of queries read."""

import random

import pytest

from dataengine.records import CategoryAnswer, DetectorVersion, Image, Label, Prediction
from storage.catalog import Catalog

CATEGORIES = ("face", "hand", None)


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    """60 images by one champion: many equal uncertainties, some refused, some labelled, some undiagnosed."""
    chance = random.Random(1)
    ids = [f"{number:03d}" for number in range(60)]
    catalog.images.add_many(
        Image(
            id=id,
            sha256=f"s{id}",
            height=4,
            width=6,
            source="real" if number % 4 == 0 else "generated",
            split="validation" if number % 5 == 0 else "train",
            round_id="r" if number < 20 else None,
            purpose="survey",
            status="refused" if number % 10 == 9 else "active",
            created=float(number),
        )
        for number, id in enumerate(ids)
    )
    for detector in ("old", "new"):
        catalog.detectors.add(DetectorVersion(id=detector, name=detector, checkpoint=detector))
        catalog.predictions.add_many(
            Prediction(
                image_id=id,
                detector_id=detector,
                max=chance.random(),
                mean=0.1,
                uncertainty=chance.randrange(5) / 4,
            )
            for id in ids[:50]
        )
    answers = [
        CategoryAnswer(image_id=id, model="vqa", category=category, confidence=1.0)
        for number, id in enumerate(ids)
        if (category := CATEGORIES[number % 3]) is not None
    ]
    catalog.images.set_categories(answers)
    for id in ids[:6]:
        catalog.labels.submit(Label(image_id=id, author="anna", height=4, width=6, clean=True, round_id="r"))
    catalog.detectors.promote("new", "root", "first")
    return catalog
