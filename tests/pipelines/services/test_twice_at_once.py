"""The same request twice at the same time counts once, and both get the same answer: on either database."""

import base64
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dataengine.errors import Conflict
from dataengine.masks import pack_label_map
from dataengine.records import Image, Label, QueueItem, now
from pipelines.services.annotation import Annotation, save_draft, skip_image, submit_answer
from pipelines.services.reviews import Verdict, Which, review_labels
from pipelines.services.triage import confirm_triage
from storage.workspace import Workspace

SIDE = 16
TWINS = 4
IMAGES = [f"image-{number}" for number in range(6)]


def packed(value: int = 1) -> str:
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    drawn[2:8, 3:9] = value
    return base64.b64encode(pack_label_map(drawn)).decode()


@pytest.fixture
def queued(workspace: Workspace) -> Workspace:
    """Images that wait for one opinion each."""
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=id, sha256=f"s{id}", height=SIDE, width=SIDE, category="hands") for id in IMAGES
        )
        catalog.queue.add_many(QueueItem(image_id=id, round_id="r") for id in IMAGES)
        catalog.commit()
    return workspace


def lease(workspace: Workspace, image: str, person: str = "anna") -> str:
    with workspace.catalog() as catalog:
        found = catalog.queue.next(person, now(), 600, image_id=image)
        catalog.commit()
    assert found is not None
    return found.id


def together(*acts: Callable[[], Any]) -> list[Any]:
    """What each of the calls, which begin at the same moment, returned or raised."""
    found: list[Any] = [None] * len(acts)
    start = threading.Barrier(len(acts))

    def run(number: int) -> None:
        start.wait()
        try:
            found[number] = acts[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def labels_of(workspace: Workspace, image: str) -> list[Label]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.labels.history(image)


@pytest.mark.parametrize("key", ["with a key", None])
def test_a_submit_twice_at_once_gets_the_stored_answer(queued: Workspace, key: str | None) -> None:
    for image in IMAGES:
        answer = Annotation(
            lease=lease(queued, image),
            image=image,
            revision=0,
            label_map=packed(),
            key=key and f"{key} {image}",
        )
        found = together(*[lambda answer=answer: submit_answer(queued, answer, "anna")] * TWINS)
        stored = labels_of(queued, image)
        assert len(stored) == 1, f"{image} is stored {len(stored)} times"
        assert found == stored * TWINS
    with queued.catalog(read_only=True) as catalog:
        assert (catalog.queue.done("r"), catalog.queue.remaining("r")) == (len(IMAGES), 0)


def test_a_correction_twice_at_once_is_one_revision(queued: Workspace) -> None:
    for image in IMAGES:
        first = Annotation(lease=lease(queued, image), image=image, revision=0, label_map=packed())
        submit_answer(queued, first, "anna")
        change = Annotation(image=image, revision=1, label_map=packed(2), key=f"again {image}")
        found = together(*[lambda change=change: submit_answer(queued, change, "anna")] * TWINS)
        assert {getattr(one, "revision", one) for one in found} == {2}
        assert [label.revision for label in labels_of(queued, image)] == [1, 2]


@pytest.mark.parametrize("images", [(0, 0), (1, 2)], ids=["one image", "two images"])
def test_a_key_for_another_answer_is_refused_also_at_once(queued: Workspace, images: tuple[int, int]) -> None:
    leases = {number: lease(queued, IMAGES[number]) for number in set(images)}
    answers = [
        Annotation(
            lease=leases[number], image=IMAGES[number], revision=0, label_map=packed(value), key="the same"
        )
        for value, number in enumerate(images, 1)
    ]
    acts = [lambda answer=answer: submit_answer(queued, answer, "anna") for answer in answers]
    found = together(*acts)
    assert sorted(type(each).__name__ for each in found) == ["Conflict", "Label"], found
    assert sum(len(labels_of(queued, IMAGES[number])) for number in set(images)) == 1
    with pytest.raises(Conflict, match="idempotency key"):
        acts[found.index(next(each for each in found if isinstance(each, Conflict)))]()


def test_a_skip_twice_counts_once_and_one_of_a_lost_lease_is_refused(queued: Workspace) -> None:
    for image in IMAGES:
        skipped = lease(queued, image)
        save_draft(queued, image, packed(), 1.0, "anna")
        act = lambda skipped=skipped: skip_image(queued, skipped, "anna", "too small")  # noqa: E731
        assert together(*[act] * TWINS) == [None] * TWINS
        act()
        with pytest.raises(Conflict):
            skip_image(queued, skipped, "ben", "not mine")
    with pytest.raises(Conflict):
        skip_image(queued, "never lent", "anna", "")


def test_a_triage_twice_at_once_gets_the_same_counts(queued: Workspace) -> None:
    leases = [lease(queued, image) for image in IMAGES]
    act = lambda: confirm_triage(queued, leases[:3], leases[3:], "anna", 9.0)  # noqa: E731
    assert together(*[act] * TWINS) == [(3, 3, [])] * TWINS
    assert act() == (3, 3, [])
    assert [len(labels_of(queued, image)) for image in IMAGES] == [1, 1, 1, 0, 0, 0]
    other = confirm_triage(queued, leases[:3], leases[3:], "ben", 9.0)
    assert other[:2] == (0, 0) and sorted(other[2]) == sorted(leases)


def test_a_return_twice_at_once_is_said_once(queued: Workspace) -> None:
    labels = []
    for image in IMAGES:
        answer = Annotation(lease=lease(queued, image), image=image, revision=0, label_map=packed())
        submit_answer(queued, answer, "anna")
        labels.append(Which(image=image, author="anna", revision=1))
    body = Verdict(labels=labels, verdict="rejected", note="the thumb, too")
    backwards = body.model_copy(update={"labels": labels[::-1]})
    acts = [lambda sent=sent: review_labels(queued, sent, "carla") for sent in (body, backwards) * 2]
    assert together(*acts) == [None] * len(acts)
    with queued.catalog(read_only=True) as catalog:
        assert [len(catalog.comments.of_image(image)) for image in IMAGES] == [1] * len(IMAGES)
        assert len(catalog.audit.list(action="label.review")) == len(IMAGES)
