"""What screens show, on both databases."""

from dataclasses import replace

import pytest

from dataengine.errors import NotFound
from dataengine.records import HardCategory, Job, Label, PseudoLabel, QueueItem, Round
from storage.catalog import Catalog
from storage.queries import annotation, overview, rounds


def test_overview(filled: Catalog) -> None:
    filled.jobs.add(Job(id="j", kind="train"))
    filled.rounds.add(Round(id="r", recipe={}, stage="generate"))
    filled.queue.add_many([QueueItem(image_id="000", round_id="r")])
    found = overview.overview(filled)
    assert found.images == {"generated": 45, "real": 15} and found.splits == {"train": 48, "validation": 12}
    assert (found.labelled, found.waiting, found.detectors, found.champion) == (6, 1, 2, "new")
    assert found.jobs == {"queued": 1} and found.rounds == {"running": 1} and found.users == 0


def test_labels_by_people_are_peoples(filled: Catalog) -> None:
    """desks 1.13: neither simulated annotators' nor the demo's synthetic author count as people."""
    before = overview.overview(filled)
    for image, author, source in (
        ("050", "simulated-ada", "simulated"),
        ("051", "clinic", "import"),
        ("052", "import:coco", "import"),
        ("053", "clinic", "import"),
        ("053", "ada", "person"),
    ):
        filled.labels.submit(
            Label(image_id=image, author=author, source=source, height=4, width=6, clean=True)  # type: ignore[arg-type]
        )
    after = overview.overview(filled)
    assert (after.labelled - before.labelled, after.synthetic - before.synthetic) == (2, 2)


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
    assert rounds.round_progress(filled, "r") == rounds.RoundProgress(
        round=round_,
        images={"survey": 20},
        queued=4,
        answered=1,
        labels=7,
        pseudo_labels=1,
        hard_categories=("hand",),
    )
    with pytest.raises(NotFound):
        rounds.round_progress(filled, "x")


def test_annotator_day(filled: Catalog) -> None:
    filled.queue.add_many(
        QueueItem(image_id=f"{n:03d}", round_id="r", annotations_per_image=2) for n in range(10, 14)
    )
    lease = filled.queue.next("bob", 100.0, 10.0)
    assert lease is not None
    filled.labels.submit(
        Label(image_id=lease.image_id, author="bob", height=4, width=6, clean=True, created=100.0),
        lease.id,
        0,
    )
    held = filled.queue.next("bob", 100.0, 10.0)
    assert held is not None
    day = annotation.annotator_day(filled, "bob", now=101.0, day_start=50.0)
    assert day == annotation.AnnotatorDay(remaining=3, done_today=1, leases=(held,))
    assert annotation.annotator_day(filled, "carla", now=101.0, day_start=50.0).remaining == 4
