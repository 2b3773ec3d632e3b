"""Counts beside the values of filters, on both databases: exact, by the other filters, and bounded."""

from dataclasses import replace

import numpy as np
import pytest

from dataengine.masks import PackedMap
from dataengine.records import DetectorVersion, Image, Label, Prediction, QueueItem, Review
from storage import tables
from storage.catalog import Catalog
from storage.queries import facets
from storage.queries.facets import facet_counts
from storage.queries.images import STATES, ImageFilter, count_of_images


@pytest.fixture
def busy(catalog: Catalog) -> Catalog:
    """Images a to h in every state, with labels of two people, tags and a champion's predictions."""
    catalog.images.add_many(
        Image(id=id, sha256=id, height=2, width=2, category="hand" if id < "e" else "mug",
              status="refused" if id == "h" else "active")
        for id in "abcdefgh"
    )  # fmt: skip
    maps = {value: PackedMap.of(np.full((2, 2), value, np.uint8)) for value in (1, 2, 3)}
    catalog.label_map_statistics.add_many((f"m{value}", packed) for value, packed in maps.items())
    for image, author, label_map in (
        *(("a", "ada", "m1"), ("a", "ben", "m2")),
        *(("b", "ada", "m1"), ("b", "ada", "m3"), ("e", "ben", None)),
    ):
        clean = label_map is None
        label = Label(image_id=image, author=author, height=2, width=2, label_map=label_map, clean=clean)
        catalog.labels.submit(label)
    for image, author, revision, verdict in (("a", "ada", 1, "accepted"), ("e", "ben", 1, "rejected")):
        catalog.reviews.add(
            Review(image_id=image, author=author, revision=revision, reviewer="cyd", verdict=verdict)  # type: ignore[arg-type]
        )
    catalog.queue.add_many([QueueItem(image_id="c", round_id="r")])
    images = tables.images.c
    catalog.tags.add([images.id.in_(["a", "b", "e"])], ["check"])
    catalog.tags.add([images.id.in_(["b"])], ["nice"])
    catalog.detectors.add(DetectorVersion(id="d", name="d", checkpoint="c"))
    catalog.detectors.promote("d", "test", "only one")
    catalog.predictions.add_many(
        Prediction(image_id=id, detector_id="d", max=0.9 if id in "abe" else 0.1, mean=0.1, uncertainty=0.1)
        for id in "abcdefg"
    )
    return catalog


FILTERS = (
    ImageFilter(),
    ImageFilter(category="hand"),
    ImageFilter(tag="check"),
    ImageFilter(state="unreviewed", category="hand"),
    ImageFilter(label_class=1),
    ImageFilter(lowest=0.5),
    ImageFilter(tag="check", label_class=3, state="approved"),
    ImageFilter(state="refused"),
)
FIELDS = {"state": "state", "class": "label_class", "tag": "tag", "category": "category"}


@pytest.mark.parametrize("image_filter", FILTERS)
def test_status_class_and_tag_are_counted_as_the_filter_would_find(
    busy: Catalog, image_filter: ImageFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """desks 3.15: no facet counts."""

    def expected(field: str, value: object) -> int:
        return count_of_images(busy, replace(image_filter, **{field: value}))  # type: ignore[arg-type]

    values = {
        "state": STATES,
        "class": (1, 2, 3),
        "tag": ("check", "nice"),
        "category": ("hand", "mug"),
    }
    # Looked up among few images, and image by image where they are many and the labels few.
    for joined, counted in ((100, 100), (5, 100), (5, 2)):
        monkeypatch.setattr(facets, "MOST_JOINED", joined)
        monkeypatch.setattr(facets, "MOST_COUNTED", counted)
        found = facet_counts(busy, image_filter)
        for name, field in FIELDS.items():
            for value in values[name]:
                count = found.get(name, {str(value): None}).get(str(value), 0)
                assert count in (
                    (expected(field, value),) if counted == joined else (expected(field, value), None)
                )


def test_no_more_than_the_limit_is_counted(busy: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facets, "MOST_COUNTED", 2)
    monkeypatch.setattr(facets, "MOST_JOINED", 2)
    found = facet_counts(busy, ImageFilter())
    assert found == {"state": dict.fromkeys(STATES) | {"waiting": 1}}
    assert facet_counts(busy, ImageFilter(tag="nice"))["class"] == {"1": 0, "2": 0, "3": 1}
