"""What the curation desk reads beside pages, on both databases."""

import numpy as np
import pytest

from dataengine.masks import PackedMap
from dataengine.records import Label, QueueItem, Review
from storage.catalog import Catalog
from storage.queries import categories, images, labels, reviews
from storage.queries.images import ImageFilter
from storage.repositories.images import FEATURE_LENGTH
from storage.repositories.labels import LabelMapStatistics


def label(id: str, author: str, **values: object) -> Label:
    return Label(image_id=id, author=author, height=4, width=6, **values)  # type: ignore[arg-type]


def review(catalog: Catalog, id: str, author: str, revision: int, verdict: str, created: float = 1.0) -> None:
    catalog.reviews.add(
        Review(
            image_id=id,
            author=author,
            revision=revision,
            reviewer="curator",
            verdict=verdict,  # type: ignore[arg-type]
            created=created,
        )
    )


def ids(catalog: Catalog, **wanted: object) -> list[str]:
    found = images.page_of_images(catalog, ImageFilter(**wanted), limit=100).cards  # type: ignore[arg-type]
    return [card.id for card in found]


def test_categories_by_confidence(filled: Catalog) -> None:
    found = categories.histograms(filled, "new")
    assert set(found) == {"face", "hand"}
    maxima = [p.max for p in filled.predictions.of("new") if filled.images.get(p.image_id).category == "hand"]
    hand = found["hand"]
    assert sum(hand.counts.values()) == len(maxima)
    assert hand.mean == pytest.approx(sum(maxima) / len(maxima))
    assert hand.share(0.5) == pytest.approx(sum(m >= 0.5 for m in maxima) / len(maxima))
    assert categories.histograms(filled, "nobody") == {}


def test_quantiles_and_shares_of_a_histogram(filled: Catalog) -> None:
    hand = categories.histograms(filled, "new")["hand"]
    maxima = [p.max for p in filled.predictions.of("new") if filled.images.get(p.image_id).category == "hand"]
    assert hand.quantile(0.9) == pytest.approx(np.quantile(maxima, 0.9, method="inverted_cdf"), abs=0.002)
    assert hand.share(0.25) == pytest.approx(np.mean(np.array(maxima) >= 0.25))
    assert hand.share(0.0) == 1 and hand.quantile(0.0) <= min(maxima)


def test_what_is_asked_is_what_the_slider_counted(filled: Catalog) -> None:
    filled.queue.add_many([QueueItem(image_id="010", round_id="r")])
    counted = categories.histograms(filled, "new", categories.not_queued())
    for threshold in (0.0, 0.31, 0.75):
        asked = categories.queueable(filled, "new", {"hand": threshold, "face": 1.0}, 1000)
        above = sum(n for step, n in counted["hand"].counts.items() if step >= categories.step_of(threshold))
        assert len(asked) == above
        maxima = [highest for _, highest in asked]
        assert maxima == sorted(maxima, reverse=True) and all(m >= threshold - 0.001 for m in maxima)
    asked_ids = {id for id, _ in categories.queueable(filled, "new", {"hand": 0.0}, 1000)}
    assert asked_ids and not asked_ids & {"010", "001", "004"}, "queued or labelled"


def test_states_follow_reviews(filled: Catalog) -> None:
    review(filled, "000", "anna", 1, "accepted")
    review(filled, "001", "anna", 1, "rejected")
    review(filled, "002", "anna", 1, "rejected")
    filled.labels.submit(label("002", "anna", clean=False, label_map="m", round_id="r"))
    filled.queue.add_many([QueueItem(image_id="012", round_id="r")])
    assert ids(filled, state="approved") == ["000"] and ids(filled, state="returned") == ["001"]
    assert set(ids(filled, state="unreviewed")) == {"002", "003", "004", "005"}
    assert ids(filled, state="waiting") == ["012"]
    assert len(ids(filled, state="unlabelled", order="newest")) == 54 - 6
    assert all(int(id) % 10 == 9 for id in ids(filled, state="refused"))
    assert reviews.review_counts(filled) == {"unreviewed": 4, "approved": 1, "returned": 1}


def test_classes_are_found_on_newest_revisions(filled: Catalog) -> None:
    statistics = LabelMapStatistics(filled.connection)
    filled.labels.submit(label("000", "anna", label_map="a"))
    filled.labels.submit(label("001", "anna", label_map="a"))
    filled.labels.submit(label("001", "anna", label_map="b"))
    assert sorted(statistics.missing(10)) == [("a", 4, 6), ("b", 4, 6)]
    first, second = np.zeros((2, 4, 6), np.uint8)
    first[0], first[1], second[2, 3] = 1, 3, 2
    statistics.add_many([("a", PackedMap.of(first)), ("b", PackedMap.of(second))])
    assert statistics.missing(10) == []
    assert statistics.classes_of(["a", "b", "unknown"]) == {"a": (1, 3), "b": (2,)}
    assert statistics.classes_of([]) == {}
    assert ids(filled, label_class=1) == ["000"] == ids(filled, label_class=3)
    assert ids(filled, label_class=2) == ["001"]


def test_generator_age_and_maximum(filled: Catalog) -> None:
    maxima = {p.image_id: p.max for p in filled.predictions.of("new")}
    by_max = [id for id in ids(filled, order="max", category="hand") if id in maxima]
    assert by_max == sorted(by_max, key=lambda id: -maxima[id]) and len(by_max) > 10
    assert ids(filled, order="oldest", lowest=0.5) == sorted(
        id for id in ids(filled) if maxima.get(id, 0) >= 0.5
    )
    assert ids(filled, generator_id="nobody") == []


def test_pages_by_maximum_repeat_nothing(filled: Catalog) -> None:
    seen, after = [], None
    while True:
        page = images.page_of_images(filled, ImageFilter(order="max"), after, limit=4)
        seen += [card.id for card in page.cards]
        if (after := page.after) is None:
            break
    assert len(seen) == len(set(seen)) == images.count_of_images(filled, ImageFilter(order="max"))


def test_labels_that_count(filled: Catalog) -> None:
    for author in ("bob", "cleo"):
        filled.labels.submit(label("000", author, label_map="m"))

    def counting(policy: str = "unreturned") -> list[str]:
        found = labels.valid_labels(filled, ["000"], policy)  # type: ignore[arg-type]
        return sorted(one.author for one in found.get("000", []))

    assert counting() == ["anna", "bob", "cleo"] and counting("approved") == []
    review(filled, "000", "bob", 1, "rejected")
    assert counting() == ["anna", "cleo"]
    review(filled, "000", "cleo", 1, "accepted")
    assert counting() == ["cleo"] == counting("approved")
    review(filled, "000", "anna", 1, "corrected")
    filled.labels.submit(label("000", "bob", label_map="n"))
    assert counting() == ["cleo"], "an approved label puts unreviewed ones aside"


def test_the_review_list_turns_pages_oldest_first(filled: Catalog) -> None:
    review(filled, "003", "anna", 1, "accepted")
    rows, after = reviews.page_of_reviews(filled, "unreviewed", limit=3)
    more, end = reviews.page_of_reviews(filled, "unreviewed", after=after, limit=3)
    assert end is None and [row.image_id for row in [*rows, *more]] == sorted(
        {"000", "001", "002", "004", "005"}, key=lambda id: [r.image_id for r in [*rows, *more]].index(id)
    )
    assert len({row.image_id for row in [*rows, *more]}) == 5
    [row] = reviews.page_of_reviews(filled, "approved")[0]
    assert (row.image_id, row.verdict, row.reviewer) == ("003", "accepted", "curator")
    assert reviews.page_of_reviews(filled, "any", author="bob") == ([], None)
    assert categories.reviewed_shares(filled) == {"face": (0, 1)}


def test_several_opinions(filled: Catalog) -> None:
    filled.labels.submit(label("001", "bob", clean=True))
    assert labels.labelled_by_several(filled) == ["001"]


def test_features_come_back_equal(filled: Catalog) -> None:
    from storage.repositories.images import Features

    chance = np.random.default_rng(0)
    vectors = {f"{n:03d}": chance.integers(-127, 128, FEATURE_LENGTH).astype(np.int8) for n in range(5)}
    features = Features(filled.connection)
    assert features.add_many("new", vectors) == 5 and features.add_many("new", vectors) == 0
    found, matrix = features.of("new", 100)
    assert {id: vector.tolist() for id, vector in zip(found, matrix, strict=True)} == {
        id: vector.tolist() for id, vector in vectors.items()
    }
    one = features.get("new", "002")
    assert one is not None and one.tolist() == vectors["002"].tolist() and features.get("old", "002") is None
    assert "000" not in features.missing("new") and "008" in features.missing("new")
