"""What screens show, on both databases."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from dataengine.errors import NotFound
from dataengine.records import (
    CategoryAnswer,
    DetectorVersion,
    HardCategory,
    Image,
    Job,
    Label,
    Prediction,
    PseudoLabel,
    QueueItem,
    Round,
    Study,
    Vote,
)
from storage import queries
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import migrate
from storage.queries import ImageFilter
from tests.bench.fill import fill_catalog

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
    cards = queries.page_of_images(filled, ImageFilter(newest=True), limit=5).cards
    assert [card.id for card in cards] == ["058", "057", "056", "055", "054"]
    assert cards[0].max is None and queries.count_of_images(filled, ImageFilter(newest=True)) == 54
    page = queries.page_of_images(
        filled, ImageFilter(newest=True, category="hand"), after=(54.0, "054"), limit=2
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


def test_categories_by_confidence(filled: Catalog) -> None:
    found = queries.categories(filled)
    assert {one.category for one in found} == {"face", "hand"}
    assert found[0].mean_max >= found[1].mean_max
    maxima = [p.max for p in filled.predictions.of("new") if filled.images.get(p.image_id).category == "hand"]
    hand = next(one for one in found if one.category == "hand")
    assert hand.images == len(maxima)
    assert hand.mean_max == pytest.approx(sum(maxima) / len(maxima))
    assert hand.share_with_artifact == pytest.approx(sum(m >= 0.5 for m in maxima) / len(maxima))
    assert queries.categories(filled, "nobody") == []


def test_overview(filled: Catalog) -> None:
    filled.jobs.add(Job(id="j", kind="train"))
    filled.rounds.add(Round(id="r", recipe={}, stage="generate"))
    filled.queue.add_many([QueueItem(image_id="000", round_id="r")])
    found = queries.overview(filled)
    assert found.images == {"generated": 45, "real": 15} and found.splits == {"train": 48, "validation": 12}
    assert (found.labelled, found.waiting, found.detectors, found.champion) == (6, 1, 2, "new")
    assert found.jobs == {"queued": 1} and found.rounds == {"running": 1} and found.users == 0


def test_round_progress(filled: Catalog) -> None:
    round_ = Round(id="r", recipe={}, stage="label")
    filled.rounds.add(round_)
    filled.queue.add_many(QueueItem(image_id=f"{n:03d}", round_id="r") for n in range(4))
    filled.labels.submit(Label(image_id="000", author="bob", height=4, width=6, clean=True, round_id="r"))
    verdict = HardCategory(round_id="r", category="hand", images=1, statistic=1, limit=0, hard=True)
    filled.hard.record("r", [verdict, replace(verdict, category="face", hard=False)])
    filled.pseudo_labels.add_many(
        [PseudoLabel(image_id="1".zfill(3), detector_id="d", round_id="r", map_ref="m", max=1)]
    )
    assert queries.round_progress(filled, "r") == queries.RoundProgress(
        round=round_,
        images={"survey": 20},
        queued=4,
        answered=1,
        labels=7,
        pseudo_labels=1,
        hard_categories=("hand",),
    )
    with pytest.raises(NotFound):
        queries.round_progress(filled, "x")


def test_annotator_day(filled: Catalog) -> None:
    filled.queue.add_many(QueueItem(image_id=f"{n:03d}", round_id="r", opinions=2) for n in range(10, 14))
    lease = filled.queue.next("bob", 100.0, 10.0)
    assert lease is not None
    filled.labels.submit(
        Label(image_id=lease.image_id, author="bob", height=4, width=6, clean=True, created=100.0),
        lease.id,
        0,
    )
    held = filled.queue.next("bob", 100.0, 10.0)
    assert held is not None
    day = queries.annotator_day(filled, "bob", now=101.0, day_start=50.0)
    assert day == queries.AnnotatorDay(remaining=3, done_today=1, leases=(held,))
    assert queries.annotator_day(filled, "carla", now=101.0, day_start=50.0).remaining == 4


def test_study_progress(catalog: Catalog) -> None:
    catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h", pairs=(("a", "b"), ("c", "d"))))
    for rater, pair in (("anna", 0), ("anna", 1), ("bob", 0)):
        catalog.votes.add(Vote(study_id="s", pair=pair, rater=rater, question="quality", choice="tie"))
    assert queries.study_progress(catalog, "s") == queries.StudyProgress(
        study_id="s", pairs=2, votes=3, by_rater={"anna": 2, "bob": 1}
    )


def test_only_pictures_in_use_are_served(filled: Catalog) -> None:
    filled.images.set_thumbnail("001", "thumb")
    assert queries.is_shown(filled, "s001") and queries.is_shown(filled, "thumb")
    assert not queries.is_shown(filled, "s009"), "refused"
    assert not queries.is_shown(filled, "other")


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
