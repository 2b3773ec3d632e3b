"""Selections for work agree with the pages of the desk, on both databases, and leave out what they say."""

from dataclasses import replace

import pytest

from dataengine.records import GeneratorVersion, Label, Prediction, PseudoLabel, QueueItem
from dataengine.records.images import HARD, JUDGE
from storage.catalog import Catalog
from storage.queries.categories import histograms
from storage.queries.datasets import pseudo_examples
from storage.queries.domains import count_elsewhere, elsewhere
from storage.queries.images import ImageFilter, conditions_of, page_of_images
from storage.queries.selections import (
    Conditions,
    count_by_category,
    count_of_selection,
    minable,
    most_telling,
    not_predicted_by,
    page_of_selection,
    pseudo_labelable,
    uncategorised,
)
from tests.storage.builders import detector, image


def ids_of(catalog: Catalog, conditions: Conditions, limit: int = 7) -> list[str]:
    """All images of a selection, page by page."""
    found: list[str] = []
    while page := page_of_selection(catalog, conditions, found[-1] if found else None, limit):
        found += [one.id for one in page]
    return found


@pytest.mark.parametrize(
    "image_filter",
    [
        ImageFilter(),
        ImageFilter(category="hand", split="train"),
        ImageFilter(source="real"),
        ImageFilter(round_id="r", lowest=0.3),
        ImageFilter(lowest=0.2, highest=0.7),
        ImageFilter(lowest=0.5, detector_id="old"),
        ImageFilter(state="unlabelled", highest=0.5),
        ImageFilter(labelled=True),
        ImageFilter(detector_id="old"),
    ],
)
def test_a_selection_is_what_the_pages_show(filled: Catalog, image_filter: ImageFilter) -> None:
    conditions = conditions_of(filled, image_filter)
    cards = page_of_images(filled, replace(image_filter, order="oldest"), limit=100).cards
    assert ids_of(filled, conditions) == sorted(card.id for card in cards) != []
    assert count_of_selection(filled, conditions) == len(cards)


def test_bounds_without_any_detector_select_nothing(catalog: Catalog) -> None:
    catalog.images.add_many([image("a")])
    assert count_of_selection(catalog, conditions_of(catalog, ImageFilter(lowest=0.5))) == 0
    assert count_of_selection(catalog, conditions_of(catalog, ImageFilter())) == 1


def test_what_is_left_to_do(filled: Catalog) -> None:
    every = conditions_of(filled, ImageFilter())
    active = ids_of(filled, every)
    assert ids_of(filled, [*every, not_predicted_by("new")]) == [id for id in active if id >= "050"]
    assert ids_of(filled, [*every, not_predicted_by("third")]) == active
    assert ids_of(filled, [*every, uncategorised()]) == [id for id in active if int(id) % 3 == 2]
    counts = count_by_category(filled, every)
    assert counts == {
        name: sum(("face", "hand", "")[int(id) % 3] == name for id in active) for name in ("", "face", "hand")
    }


def test_people_benchmarks_and_comparisons_are_left_alone(catalog: Catalog) -> None:
    catalog.detectors.add(detector("d"))
    catalog.images.add_many(
        [
            *(image(id, source="imported") for id in ("free", "labelled", "queued", "done", "pseudo")),
            image("hard", purpose=HARD, round_id="r"),
            image("judge", purpose=JUDGE, round_id="r"),
            image("benchmark", split="benchmark"),
            image("validation", split="validation"),
            image("real", source="real"),
        ]
    )
    catalog.labels.submit(Label(image_id="labelled", author="ada", height=4, width=6, clean=True))
    catalog.queue.add_many(QueueItem(image_id=id, round_id="m") for id in ("queued", "done"))
    pseudo = PseudoLabel(image_id="pseudo", detector_id="d", round_id="", map_ref="m:1", max=0.5)
    catalog.pseudo_labels.add_many([pseudo])
    every = conditions_of(catalog, ImageFilter())
    assert ids_of(catalog, [*every, *minable(ImageFilter())]) == ["free", "hard", "pseudo", "validation"]
    real = ImageFilter(source="real")
    assert ids_of(catalog, [*conditions_of(catalog, real), *minable(real)]) == ["real"]
    assert ids_of(catalog, [*every, *pseudo_labelable("d", "")]) == ["free", "hard"]
    assert ids_of(catalog, [*every, *pseudo_labelable("other", "")]) == ["free", "hard", "pseudo"]
    assert catalog.queue.among(["free", "queued", "done", "gone"]) == {"queued", "done"}


def test_the_most_telling_of_both_sides(catalog: Catalog) -> None:
    catalog.detectors.add(detector("d"))
    catalog.images.add_many(image(id, category="b" if id == "e" else "a") for id in "abcdef")
    figures = {"a": (0.9, 0.0), "b": (0.6, 0.9), "c": (0.5, 0.1), "d": (0.4, 1.0), "e": (0.99, 1.0)}
    catalog.predictions.add_many(
        Prediction(image_id=id, detector_id="d", max=high, mean=0.0, uncertainty=uncertain)
        for id, (high, uncertain) in figures.items()
    )
    every = conditions_of(catalog, ImageFilter())

    def found(*categories: str, limits: tuple[int, int]) -> str:
        images = most_telling(catalog, every, "d", categories, 0.5, limits)
        return "".join(one.id for one in images)

    assert found(limits=(9, 9)) == "abcde", "an image without a prediction is no candidate"
    assert found(limits=(2, 0)) == "be"
    assert found("a", limits=(2, 1)) == "abd"


def test_the_newest_pseudo_label_of_an_image_counts(catalog: Catalog) -> None:
    catalog.detectors.add(detector("d"))
    catalog.images.add_many([image("a"), image("b")])
    old = PseudoLabel(image_id="a", detector_id="d", round_id="r", map_ref="m:1", max=0.1, created=1.0)
    new = replace(old, round_id="", map_ref="m:2", created=2.0)
    other = replace(old, image_id="b")
    catalog.pseudo_labels.add_many([new, old, other])
    assert catalog.pseudo_labels.newest() == {"a": new, "b": other}


def test_a_category_that_came_with_an_image_reaches_its_predictions(filled: Catalog) -> None:
    filled.images.describe("001", category="zebra")
    shown = page_of_images(filled, ImageFilter(category="zebra")).cards
    assert [card.id for card in shown] == ["001"]


def test_images_from_elsewhere(catalog: Catalog) -> None:
    catalog.generators.add(GeneratorVersion(id="tiny-flux", name="t", location="t"))
    catalog.generators.add(GeneratorVersion(id="one", name="t", location="t", parent="tiny-flux"))
    catalog.generators.add(GeneratorVersion(id="two", name="t", location="t", parent="one"))
    catalog.generators.add(GeneratorVersion(id="sd", name="t", location="t"))
    catalog.images.add_many(
        [
            image("a", generator_id="tiny-flux"),
            image("b", generator_id="two"),
            image("c", generator_id="sd"),
            image("d", origin="clinic world, stream photos, index 3"),
            image("e", origin="photos/clinic world.png"),
            image("f"),
        ]
    )
    assert ids_of(catalog, [elsewhere(catalog)]) == ["c", "e", "f"]
    assert count_elsewhere(catalog, ["a", "c", "e", "gone"]) == 2 and count_elsewhere(catalog, []) == 0


@pytest.mark.parametrize(
    "image_filter", [ImageFilter(lowest=0.4), ImageFilter(lowest=0.4, detector_id="old")]
)
def test_bounds_by_one_detector_hold_in_work_of_another(filled: Catalog, image_filter: ImageFilter) -> None:
    """The bounds look at predictions inside statements that look at predictions themselves."""
    conditions = conditions_of(filled, image_filter)
    inside = set(ids_of(filled, conditions))
    assert 0 < len(inside) < 50
    for detector_id in ("old", "new"):
        counts = histograms(filled, detector_id, conditions)
        assert sum(sum(one.counts.values()) for one in counts.values()) == sum(int(i) % 3 < 2 for i in inside)
        found = most_telling(filled, conditions, detector_id, (), 0.5, (99, 99))
        assert {one.id for one in found} == inside
        assert count_of_selection(filled, [*conditions, not_predicted_by(detector_id)]) == 0


def test_the_next_training_set_counts_the_newest_pseudo_label_of_unlabelled_images(catalog: Catalog) -> None:
    catalog.detectors.add(detector("d"))
    catalog.images.add_many(
        [*(image(id, category="hand") for id in "abc"), image("v", split="validation"), image("e")]
    )
    catalog.labels.submit(Label(image_id="c", author="ada", height=4, width=6, clean=True))
    made = [
        PseudoLabel(image_id=id, detector_id="d", round_id=round_id, map_ref="m", max=high, created=created)
        for id, round_id, high, created in (
            *(("a", "r", 0.9, 1.0), ("a", "", 0.1, 2.0), ("b", "", 0.8, 1.0)),
            *(("c", "", 0.8, 1.0), ("v", "", 0.8, 1.0), ("e", "s", 0.2, 1.0)),
        )
    ]
    catalog.pseudo_labels.add_many(made)
    assert sorted(pseudo_examples(catalog, None, {"e"})) == [("hand", False), ("hand", True)]
    assert pseudo_examples(catalog, "r", ()) == [("hand", True)]
    assert sorted(pseudo_examples(catalog, None, ())) == [("", False), ("hand", False), ("hand", True)]
