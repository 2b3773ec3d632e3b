"""The queue, its leases and the revisions of labels, on both databases."""

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from dataengine.errors import Conflict, NotFound
from dataengine.records import CategoryAnswer, Image, Label, Lease, QueueItem, Review
from storage.catalog import Catalog
from tests.storage.builders import at_once

PEOPLE = ("anna", "bob", "carla")


def fill(catalog: Catalog, count: int, **values: Any) -> list[str]:
    """Queue images 0, 1, … of round "r"; the last one has the highest priority."""
    ids = [f"{number:03d}" for number in range(count)]
    catalog.images.add_many(Image(id=id, sha256=id, height=4, width=6) for id in ids)
    items = [QueueItem(image_id=id, round_id="r", priority=n, **values) for n, id in enumerate(ids)]
    assert catalog.queue.add_many(items) == count
    assert catalog.queue.add_many(items) == 0
    return ids


def label(image_id: str, author: str, **values: Any) -> Label:
    return Label(image_id=image_id, author=author, height=4, width=6, **values)


def take(catalog: Catalog, annotator: str, at: float = 0.0, **values: Any) -> Lease:
    lease = catalog.queue.next(annotator, at, 10.0, **values)
    assert lease is not None
    return lease


def test_highest_priority_first_and_nobody_gets_what_another_holds(catalog: Catalog) -> None:
    fill(catalog, 3)
    leases = [take(catalog, "anna"), take(catalog, "bob"), take(catalog, "anna")]
    assert [lease.image_id for lease in leases] == ["002", "001", "000"]
    assert catalog.queue.next("carla", 1.0, 10.0) is None
    assert {lease.image_id for lease in catalog.queue.held("anna", 1.0)} == {"000", "002"}
    assert catalog.queue.held("anna", 11.0) == []


def test_an_expired_lease_is_taken_over_and_the_late_answer_is_another_opinion(catalog: Catalog) -> None:
    fill(catalog, 1)
    old = take(catalog, "anna", at=0.0)
    assert catalog.queue.next("bob", 9.9, 10.0) is None
    new = take(catalog, "bob", at=10.0)
    assert new.image_id == old.image_id and new.id != old.id
    for act in (
        lambda: catalog.queue.renew(old.id, "anna", 99.0, 11.0),
        lambda: catalog.queue.skip(new.id, "anna", "not mine"),
        lambda: catalog.labels.submit(label("000", "anna", clean=True), new.id, 0),
    ):
        with pytest.raises(Conflict, match=r"no longer leased to you|leased to somebody else"):
            act()
    assert not catalog.queue.release(new.id, "anna")
    catalog.labels.submit(label("000", "bob", clean=True), new.id, 0)
    assert catalog.queue.done("r") == 1
    late = catalog.labels.submit(label("000", "anna", label_map="m"), old.id, 0)
    assert (late.revision, late.round_id) == (1, "r")
    assert [found.author for found in catalog.labels.of_round("r")] == ["anna", "bob"]


def test_as_many_hold_an_image_as_it_needs_opinions(catalog: Catalog) -> None:
    fill(catalog, 1, annotations_per_image=2)
    first, second = take(catalog, "anna"), take(catalog, "bob")
    assert first.image_id == second.image_id and first.id != second.id
    assert catalog.queue.next("carla", 1.0, 10.0) is None
    catalog.labels.submit(label("000", "anna", clean=True), first.id, 0)
    assert catalog.queue.next("carla", 2.0, 10.0) is None, "bob's will be the second"
    assert take(catalog, "carla", at=11.0).image_id == "000", "bob let it lapse"


def test_asking_again_after_the_end_gives_the_same_lease(catalog: Catalog) -> None:
    fill(catalog, 1)
    old = take(catalog, "anna", at=0.0)
    assert take(catalog, "anna", at=20.0) == replace(old, expires=30.0)


def test_triage_sends_what_is_flawed_to_drawing(catalog: Catalog) -> None:
    ids = fill(catalog, 3)
    catalog.images.set_categories(
        [CategoryAnswer(image_id=id, model="v", category="hands", confidence=1.0) for id in ids]
    )
    assert catalog.queue.categories("anna", "draw") == [("hands", 3)]
    lease = take(catalog, "anna", image_id="000", category="hands")
    catalog.queue.request_drawing(lease.id, "anna")
    assert catalog.queue.lease(lease.id) is None
    assert catalog.queue.next("anna", 0.0, 10.0, image_id="000", category="hands") is None
    assert catalog.queue.categories("anna", "draw") == [("hands", 2)]
    assert take(catalog, "bob").image_id == "000", "it comes first now"
    catalog.queue.add_many([QueueItem(image_id="001", round_id="s", kind="triage")])
    catalog.queue.request_drawing(take(catalog, "anna", kind="triage").id, "anna")
    drawing = [item for item in catalog.queue.of_round("s") if item.kind == "draw"]
    assert [item.reason for item in drawing] == ["flawed"] and catalog.queue.done("s") == 1


def test_an_expired_lease_that_nobody_took_still_counts(catalog: Catalog) -> None:
    fill(catalog, 1)
    lease = take(catalog, "anna", at=0.0)
    assert catalog.labels.submit(label("000", "anna", clean=True), lease.id, 0).revision == 1


def test_renew_release_and_take_again(catalog: Catalog) -> None:
    fill(catalog, 1)
    lease = take(catalog, "anna", at=0.0)
    assert catalog.queue.renew(lease.id, "anna", 50.0, 1.0) == replace(lease, expires=50.0)
    assert catalog.queue.next("bob", 20.0, 10.0) is None
    assert catalog.queue.release(lease.id, "anna")
    assert catalog.queue.lease(lease.id) is None
    assert take(catalog, "bob", at=21.0).image_id == "000"


def test_opinions_come_from_distinct_people(catalog: Catalog) -> None:
    fill(catalog, 1, annotations_per_image=2)
    catalog.labels.submit(label("000", "anna", clean=True), take(catalog, "anna").id, 0)
    assert catalog.queue.next("anna", 0.0, 10.0) is None, "one opinion each"
    catalog.labels.submit(label("000", "anna", label_map="m", round_id="r"), None, 1)
    assert (catalog.queue.remaining("r"), catalog.queue.done("r")) == (1, 0), (
        "a revision is no second opinion"
    )
    catalog.labels.submit(label("000", "bob", clean=True), take(catalog, "bob").id, 0)
    assert (catalog.queue.remaining("r"), catalog.queue.done("r")) == (0, 1)
    assert catalog.queue.next("carla", 0.0, 10.0) is None


def test_a_skipped_image_goes_to_others(catalog: Catalog) -> None:
    fill(catalog, 1)
    catalog.queue.skip(take(catalog, "anna").id, "anna", "too dark")
    assert catalog.queue.next("anna", 0.0, 10.0) is None and catalog.queue.remaining("r") == 1
    catalog.labels.submit(label("000", "anna", clean=True, round_id="r"))
    assert catalog.queue.remaining("r") == 0, "who changes their mind still counts"


def test_withdrawn_images_are_no_longer_asked_for(catalog: Catalog) -> None:
    fill(catalog, 2)
    held = take(catalog, "anna")
    assert catalog.queue.withdraw(held.image_id, "r") == 1
    assert catalog.queue.lease(held.id) is None and catalog.queue.remaining("r") == 1
    assert [item.image_id for item in catalog.queue.of_round("r")] == ["000"]


def test_what_still_waits_whoever_queued_it(catalog: Catalog) -> None:
    fill(catalog, 3)
    catalog.queue.add_many([QueueItem(image_id="001", round_id="desk", priority=9)])
    catalog.labels.submit(label("002", "anna", clean=True, round_id="r"))
    found = [(item.image_id, item.round_id) for item in catalog.queue.waiting()]
    assert found == [("001", "desk"), ("001", "r"), ("000", "r")]
    assert len(found) == catalog.queue.remaining()
    assert [item.image_id for item in catalog.queue.waiting("r")] == ["001", "000"]
    assert catalog.queue.waiting("none") == [] and catalog.queue.rounds() == {"r", "desk"}


def test_kinds_and_rounds_are_separate(catalog: Catalog) -> None:
    fill(catalog, 1)
    catalog.queue.add_many([QueueItem(image_id="000", round_id="r", kind="triage", reason="check")])
    assert catalog.queue.next("anna", 0.0, 10.0, kind="review") is None
    assert catalog.queue.next("anna", 0.0, 10.0, round_id="other") is None
    lease = take(catalog, "anna", kind="triage", round_id="r")
    catalog.labels.submit(label("000", "anna", clean=True), lease.id, 0)
    assert catalog.queue.remaining("r") == 1
    assert take(catalog, "anna").kind == "draw"


def test_revisions_compare_and_set(catalog: Catalog) -> None:
    fill(catalog, 1)
    first = catalog.labels.submit(label("000", "anna", label_map="m1"), None, 0)
    second = catalog.labels.submit(label("000", "anna", label_map="m2"), None, 1)
    assert (first.revision, second.revision) == (1, 2)
    with pytest.raises(Conflict, match="revision 2, not 1"):
        catalog.labels.submit(label("000", "anna", label_map="m3"), None, 1)
    assert catalog.labels.submit(label("000", "bob", clean=True), None, 0).revision == 1
    assert catalog.labels.submit(label("000", "anna", clean=True)).revision == 3
    assert [found.revision for found in catalog.labels.history("000")] == [1, 2, 3, 1]
    newest = catalog.labels.latest("000", "anna")
    assert newest is not None and newest.clean and newest.revision == 3
    assert [(found.author, found.revision) for found in catalog.labels.of_images(["000"])] == [
        ("anna", 3),
        ("bob", 1),
    ]
    assert catalog.labels.latest("000", "carla") is None and catalog.labels.latest("x") is None
    with pytest.raises(NotFound):
        catalog.labels.submit(label("gone", "anna", clean=True))


def test_an_answer_sent_again_is_stored_once(catalog: Catalog) -> None:
    fill(catalog, 1)
    lease = take(catalog, "anna")
    answer = label("000", "anna", label_map="m")
    stored = catalog.labels.submit(answer, lease.id, 0)
    assert catalog.labels.submit(answer, lease.id, 0) == stored
    with pytest.raises(Conflict):
        catalog.labels.submit(replace(answer, label_map="other"), lease.id, 0)
    assert len(catalog.labels.history("000")) == 1


def test_a_lease_is_for_its_image(catalog: Catalog) -> None:
    fill(catalog, 2)
    lease = take(catalog, "anna")
    with pytest.raises(Conflict, match="another image"):
        catalog.labels.submit(label("000", "anna", clean=True), lease.id, 0)


def test_labels_by_round_person_and_time(catalog: Catalog) -> None:
    fill(catalog, 2)
    catalog.labels.submit(label("000", "anna", clean=True, round_id="r", created=1.0))
    catalog.labels.submit(label("001", "anna", clean=True, round_id="r", created=2.0))
    catalog.labels.submit(label("001", "anna", label_map="m", round_id="r", created=3.0))
    catalog.labels.submit(label("001", "bob", clean=True, round_id="q", created=4.0))
    assert [(found.image_id, found.revision) for found in catalog.labels.of_round("r")] == [
        ("000", 1),
        ("001", 2),
    ]
    assert [found.created for found in catalog.labels.by("anna")] == [1.0, 2.0, 3.0]
    assert (catalog.labels.count(), catalog.labels.count("anna"), catalog.labels.count("anna", 2.5)) == (
        3,
        2,
        1,
    )
    newest = catalog.labels.latest("001")
    assert newest is not None and newest.author == "bob"


def test_reviews(catalog: Catalog) -> None:
    fill(catalog, 1)
    catalog.labels.submit(label("000", "anna", clean=True))
    review = Review(
        image_id="000", author="anna", revision=1, reviewer="carla", verdict="accepted", created=1.0
    )
    assert catalog.reviews.add(review) == 1 and catalog.reviews.add(replace(review, verdict="rejected")) == 0
    second = replace(review, reviewer="dan", verdict="rejected", created=2.0)
    catalog.reviews.add(second)
    assert catalog.reviews.of_image("000") == [review, second]
    assert catalog.reviews.verdicts(["000", "x"]) == {("000", "anna", 1): "rejected"}
    with pytest.raises(NotFound):
        catalog.reviews.add(replace(review, revision=2))


def test_people_who_ask_at_once_get_different_images(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        fill(catalog, 4)
        catalog.commit()
    results = at_once(engine, lambda catalog, number: catalog.queue.next(f"p{number}", 0.0, 10.0), workers=6)
    images = [result.image_id for result in results if isinstance(result, Lease)]
    assert sorted(images) == ["000", "001", "002", "003"] and results.count(None) == 2


def test_of_two_answers_over_one_revision_one_wins(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        fill(catalog, 1)
        catalog.commit()
    results = at_once(
        engine,
        lambda catalog, number: catalog.labels.submit(label("000", "anna", label_map=f"m{number}"), None, 0),
    )
    assert sum(isinstance(result, Label) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5, results


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_events_keeps_the_promises(catalog: Catalog, seed: int) -> None:
    chance, at = random.Random(seed), 0.0
    fill(catalog, 4, annotations_per_image=2)
    mine: dict[str, Lease] = {}
    given: dict[str, set[str]] = {}
    late: dict[str, int] = {}
    for _ in range(120):
        at += chance.choice((0.1, 1.0, 6.0))
        who = chance.choice(PEOPLE)
        if who not in mine:
            lease = catalog.queue.next(who, at, 10.0)
            if lease is not None:
                others = [held for name in PEOPLE if name != who for held in catalog.queue.held(name, at)]
                holders = sum(held.image_id == lease.image_id for held in others)
                assert holders + len(given.get(lease.image_id, ())) < 2, "as many as it needs, no more"
                assert who not in given.get(lease.image_id, set())
                mine[who] = lease
        elif chance.random() < 0.3:
            catalog.queue.release(mine.pop(who).id, who)
        else:
            lease = mine.pop(who)
            catalog.labels.submit(label(lease.image_id, who, clean=True), lease.id, 0)
            given.setdefault(lease.image_id, set()).add(who)
            late[lease.image_id] = late.get(lease.image_id, 0) + (lease.expires <= at)
    complete = [image_id for image_id, people in given.items() if len(people) >= 2]
    assert catalog.queue.done("r") == len(complete) and catalog.queue.remaining("r") == 4 - len(complete)
    assert all(len(people) <= 2 + late[image_id] for image_id, people in given.items())
    assert len(complete) == 4, "120 events are enough for eight answers"
