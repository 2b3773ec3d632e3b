"""Pages of images, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import text

from dataengine.records import Image, Prediction, QueueItem
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import migrate
from storage.queries import images as queries
from storage.queries.images import ImageFilter
from tests.bench.large_catalog import fill_catalog


def expected(catalog: Catalog, wanted: ImageFilter) -> list[str]:
    """The same, the slow way: predicted images in order, then, without a filter by prediction, the others by
    age."""
    detector_id = wanted.detector_id or "new"
    images = {image.id: image for image in catalog.images.find(status="active")}
    labelled = {label.image_id for label in catalog.labels.by("anna")}
    predictions = {one.image_id: one for one in catalog.predictions.of(detector_id)}
    found, others = [], []
    for image in images.values():
        same = all(
            getattr(wanted, name) in (None, getattr(image, name))
            for name in ("category", "source", "split", "round_id")
        )
        if not same or wanted.labelled not in (None, image.id in labelled):
            continue
        prediction = predictions.get(image.id)
        if prediction is None:
            if wanted.detector_id is None and not wanted.bounded:
                others.append((image.created, image.id))
        elif wanted.lowest <= prediction.max <= wanted.highest:
            found.append((prediction.uncertainty, image.id))
    return [id for _, id in (*sorted(found, reverse=True), *sorted(others, reverse=True))]


@pytest.mark.parametrize(
    "wanted",
    [
        ImageFilter(),
        ImageFilter(category="hand"),
        ImageFilter(category="hand", lowest=0.3, highest=0.7),
        ImageFilter(lowest=0.5, detector_id="old"),
        ImageFilter(source="real", split="train"),
        ImageFilter(round_id="r", category="face"),
        ImageFilter(labelled=True),
        ImageFilter(labelled=False, category="face"),
        ImageFilter(category="spaceship"),
    ],
)
def test_pages_hold_every_image_once_in_order(filled: Catalog, wanted: ImageFilter) -> None:
    seen: list[str] = []
    after = None
    for _ in range(60):
        page = queries.page_of_images(filled, wanted, after, limit=7)
        assert len(page.cards) <= 7
        seen += [card.id for card in page.cards]
        after = page.after
        if after is None:
            break
    assert seen == expected(filled, wanted)
    assert queries.count_of_images(filled, wanted) == len(seen)


def test_a_card_holds_what_is_shown(filled: Catalog) -> None:
    card = queries.page_of_images(filled, ImageFilter(labelled=True, category="face")).cards[0]
    prediction = filled.predictions.get(card.id, "new")
    assert prediction is not None
    assert (card.max, card.mean, card.uncertainty) == (
        prediction.max,
        prediction.mean,
        prediction.uncertainty,
    )
    assert card.labelled and card.category == "face" and card.sha256 == f"s{card.id}"
    assert not queries.page_of_images(filled, ImageFilter(labelled=False)).cards[0].labelled


def test_newest_first_shows_images_that_nobody_diagnosed(filled: Catalog) -> None:
    cards = queries.page_of_images(filled, ImageFilter(order="newest"), limit=5).cards
    assert [card.id for card in cards] == ["058", "057", "056", "055", "054"]
    assert cards[0].max is None and queries.count_of_images(filled, ImageFilter(order="newest")) == 54
    page = queries.page_of_images(
        filled, ImageFilter(order="newest", category="hand"), after=queries.Cursor(54.0, "054"), limit=2
    )
    assert [card.id for card in page.cards] == ["052", "046"]


@pytest.mark.parametrize("order", ["uncertainty", "max", "newest", "oldest"])
def test_without_a_filter_every_order_shows_every_image(filled: Catalog, order: queries.Order) -> None:
    """desks 3.1: the default order showed 432 of 3,612 images, and nothing said so."""
    filled.queue.add_many([QueueItem(image_id="057", round_id="r")])
    every = set(filled.images.ids(status="active"))
    page = queries.page_of_images(filled, ImageFilter(order=order), limit=100)
    assert {card.id for card in page.cards} == every and len(page.cards) == len(every)
    waiting = queries.page_of_images(filled, ImageFilter(order=order, state="waiting"), limit=100)
    assert [card.id for card in waiting.cards] == ["057"]


def test_a_detector_restricts_every_order_to_what_it_predicted(filled: Catalog) -> None:
    """desks 3.1: "newest" showed 3,612 images under the same detector with which "most uncertain" showed
    432."""
    of_old = {one.image_id for one in filled.predictions.of("old")} & set(filled.images.ids(status="active"))
    for order in ("uncertainty", "max", "newest", "oldest"):
        wanted = ImageFilter(order=order, detector_id="old")  # type: ignore[arg-type]
        assert {card.id for card in queries.page_of_images(filled, wanted, limit=100).cards} == of_old
        assert queries.count_of_images(filled, wanted) == len(of_old)


def test_a_card_shows_the_champions_prediction_or_else_anothers(filled: Catalog) -> None:
    """desks 3.2: an image that only another detector has predicted looked like one nobody had."""
    filled.predictions.add_many(
        [Prediction(image_id="057", detector_id="old", max=0.25, mean=0.1, uncertainty=0.5)]
    )
    by_champion, by_other, by_nobody = queries.cards_of(filled, ["001", "057", "058"])
    assert (by_champion.detector_id, by_other.detector_id, by_other.max) == ("new", "old", 0.25)
    assert by_nobody.detector_id is by_nobody.max is None
    assert queries.cards_of(filled, ["057"], "new")[0].max is None


def test_without_a_champion_pages_are_by_age(catalog: Catalog) -> None:
    assert queries.page_of_images(catalog) == queries.Page(cards=(), after=None)
    catalog.images.add_many(Image(id=id, sha256=id, height=1, width=1, created=1.0) for id in "abc")
    page = queries.page_of_images(catalog, limit=2)
    assert [card.id for card in page.cards] == ["c", "b"] and page.after is not None
    assert [card.id for card in queries.page_of_images(catalog, after=page.after).cards] == ["a"]


def test_counting_stops_at_its_limit(filled: Catalog) -> None:
    assert queries.count_of_images(filled, limit=10) == 10


def test_a_page_in_sqlite_reads_its_index_and_sorts_nothing(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    migrate(engine)
    fill_catalog(engine, images=500)
    plans = []
    with Catalog(engine, read_only=True) as catalog:
        execute = catalog.connection.execute

        def explain(statement: object, *args: object) -> object:
            compiled = statement.compile(engine, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
            plans.append([row.detail for row in execute(text(f"EXPLAIN QUERY PLAN {compiled}"))])
            return execute(statement, *args)  # type: ignore[call-overload]

        catalog.connection.execute = explain  # type: ignore[method-assign, assignment]
        page = queries.page_of_images(catalog, ImageFilter(category="hand", lowest=0.3, highest=0.7))
        assert page.cards
    plan = next(plan for plan in plans if any("ix_predictions_page" in line for line in plan))
    assert "COVERING INDEX ix_predictions_page" in plan[0]
    assert not any("TEMP B-TREE" in line for line in plan), plan
