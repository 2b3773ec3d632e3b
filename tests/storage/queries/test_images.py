"""Pages of images, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import text

from dataengine.records import Image
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import migrate
from storage.queries import images as queries
from storage.queries.images import ImageFilter
from tests.bench.large_catalog import fill_catalog


def expected(catalog: Catalog, wanted: ImageFilter) -> list[str]:
    """The same, the slow way."""
    detector_id = wanted.detector_id or "new"
    images = {image.id: image for image in catalog.images.find(status="active")}
    labelled = {label.image_id for label in catalog.labels.by("anna")}
    found = []
    for prediction in catalog.predictions.of(detector_id):
        image = images.get(prediction.image_id)
        if image is None or not wanted.lowest <= prediction.max <= wanted.highest:
            continue
        same = all(
            getattr(wanted, name) in (None, getattr(image, name))
            for name in ("category", "source", "split", "round_id")
        )
        if same and wanted.labelled in (None, image.id in labelled):
            found.append((prediction.uncertainty, image.id))
    return [id for _, id in sorted(found, reverse=True)]


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
        filled, ImageFilter(order="newest", category="hand"), after=(54.0, "054"), limit=2
    )
    assert [card.id for card in page.cards] == ["052", "046"]


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
