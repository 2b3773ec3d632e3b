"""What is pushed: the images that wait for people, whoever queued them, and no others."""

from pathlib import Path

import pytest

from dataengine.records import Label, QueueItem, Round
from pipelines.exchange.label_studio.pull import _answered
from pipelines.exchange.label_studio.push import images_to_push
from pipelines.exchange.readers.folders import import_folder
from storage.workspace import Workspace
from tests.pipelines.exchange.labelled import picture


@pytest.fixture
def images(fresh: Workspace, tmp_path: Path) -> list[str]:
    """Ten images, of which the first four are answered in round r1, and the others wait nowhere yet."""
    for number in range(10):
        picture(tmp_path / "p" / f"{number}.png", number)
    import_folder(fresh, tmp_path / "p")
    with fresh.catalog() as catalog:
        found = catalog.images.find()
        catalog.rounds.add(Round(id="r1", recipe={}, stage="done", state="done"))
        catalog.queue.add_many(QueueItem(image_id=image.id, round_id="r1") for image in found[:4])
        for image in found[:4]:
            catalog.labels.submit(
                Label(
                    image_id=image.id, author="ada", height=image.height, width=image.width, clean=True,
                    round_id="r1",
                )
            )  # fmt: skip
        catalog.commit()
    return [image.id for image in found]


def queue(workspace: Workspace, image: str, round_id: str, priority: float = 0.0, people: int = 1) -> None:
    with workspace.catalog() as catalog:
        item = QueueItem(image_id=image, round_id=round_id, priority=priority, annotations_per_image=people)
        catalog.queue.add_many([item])
        catalog.commit()


def pushed(workspace: Workspace, round_id: str | None = None, limit: int | None = None) -> list[str]:
    return [image.id for image in images_to_push(workspace, round_id, limit)[0]]


def test_answered_ones_are_not_pushed(fresh: Workspace, images: list[str]) -> None:
    assert pushed(fresh) == pushed(fresh, "r1") == []


def test_those_that_a_desk_asked_for_are_pushed_by_priority(fresh: Workspace, images: list[str]) -> None:
    """A desk queues in a round that nobody started, and an answered image may be asked for again."""
    queue(fresh, images[5], "desk-2026-11-30", 0.2)
    queue(fresh, images[6], "desk-2026-11-30", 0.9)
    queue(fresh, images[0], "benchmark-1", 0.5)
    queue(fresh, images[7], "r1", 0.1)
    queue(fresh, images[6], "r1", 0.05)
    expected = [images[6], images[0], images[5], images[7]]
    assert pushed(fresh) == expected and pushed(fresh, limit=2) == expected[:2]
    assert pushed(fresh, "r1") == [images[7], images[6]]
    assert pushed(fresh, "nobody's") == []
    with fresh.catalog(read_only=True) as catalog:
        assert len(pushed(fresh)) == len({item.image_id for item in catalog.queue.waiting()})
        assert catalog.queue.remaining() == len(catalog.queue.waiting()) == 5
        assert catalog.queue.rounds() == {"r1", "desk-2026-11-30", "benchmark-1"}
    _, rounds = images_to_push(fresh, None, None)
    assert rounds[images[6]] == "desk-2026-11-30", "the task says where its image waits"


def test_one_that_needs_a_second_opinion_waits(fresh: Workspace, images: list[str]) -> None:
    queue(fresh, images[8], "r1", people=2)
    for author, waits in (("ada", True), ("ben", False)):
        with fresh.catalog() as catalog:
            image = catalog.images.get(images[8])
            catalog.labels.submit(
                Label(
                    image_id=image.id, author=author, height=image.height, width=image.width, clean=True,
                    round_id="r1",
                )
            )  # fmt: skip
            catalog.commit()
        assert (pushed(fresh) == [images[8]]) == waits


def test_which_round_an_annotation_answers() -> None:
    rounds = {"r1", "r2", "desk"}
    assert _answered("r1", ["r1", "desk"], rounds) == "r1"
    assert _answered("r1", ["desk", "r2"], rounds) == "desk"
    assert _answered("r1", [], rounds) == "r1"
    assert _answered("made up", [], rounds) is None and _answered("", ["desk"], rounds) == "desk"
