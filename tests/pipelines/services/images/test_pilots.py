"""Pilots: whom they ask, and what they tell of a campaign."""

import numpy as np
import pytest

from dataengine.errors import InputRefused
from dataengine.masks import pack_label_map
from dataengine.records import Image, Label
from pipelines.selections.config import ImageQuery, ImageSelection
from pipelines.services.images.pilots import NewPilot, list_pilots, pilot_report, plan_hours, start_pilot
from storage.accounts import create_user
from storage.workspace import Workspace

EVERY = ImageSelection(images=ImageQuery())


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=f"i{at}", sha256=f"{at}", height=8, width=8, category="hands" if at % 2 else "mugs")
            for at in range(12)
        )
        for name in ("ada", "bob", "cy"):
            create_user(catalog, name, "correct horse battery", ["annotator"], "test")
        catalog.commit()
    return workspace


def answer(
    workspace: Workspace, image: str, author: str, round_id: str, columns: int, seconds: float
) -> None:
    label_map = np.zeros((8, 8), np.uint8)
    label_map[:, :columns] = 1
    blob = workspace.blobs.put(pack_label_map(label_map)) if columns else None
    with workspace.catalog() as catalog:
        catalog.labels.submit(
            Label(
                image_id=image,
                author=author,
                height=8,
                width=8,
                label_map=blob,
                clean=not columns,
                lead_seconds=seconds,
                round_id=round_id,
            )
        )
        catalog.queue.answer(image, round_id, "draw", author)
        catalog.commit()


def test_a_pilot_asks_everybody_named_for_every_image(filled: Workspace) -> None:
    made = start_pilot(filled, NewPilot(chosen=EVERY, images=4, people=["bob", "ada"], seed=3), "cy")
    with filled.catalog(read_only=True) as catalog:
        items = catalog.queue.of_round(made.id)
        takers = catalog.assignees.of([item.image_id for item in items])
        [listed] = list_pilots(catalog)
    assert len(items) == 4 and {item.annotations_per_image for item in items} == {2}
    assert set(takers.values()) == {("ada", "bob")}
    assert (listed["name"], listed["done"], listed["wanted"]) == ("4 images, 2 people", 0, 8)
    empty = pilot_report(filled, made.id)
    assert empty["plan"] is empty["seconds"] is empty["an_hour"] is None
    assert [one["name"] for one in empty["people"]] == ["ada", "bob"]
    with pytest.raises(InputRefused, match="8 images of 12 selected can go to annotators"):
        start_pilot(filled, NewPilot(chosen=EVERY, images=9, people=["ada"]), "cy")
    with pytest.raises(InputRefused, match="no account 'eve'"):
        start_pilot(filled, NewPilot(chosen=EVERY, images=2, people=["eve"]), "cy")


def test_the_report_is_of_this_pilots_labels(filled: Workspace) -> None:
    chosen = ImageSelection(ids=("i0", "i1"))
    made = start_pilot(filled, NewPilot(name="first", chosen=chosen, images=2, people=["ada", "bob"]), "cy")
    answer(filled, "i0", "ada", made.id, 4, 30)
    answer(filled, "i0", "bob", made.id, 2, 50)
    answer(filled, "i1", "ada", made.id, 0, 10)
    answer(filled, "i1", "bob", made.id, 0, 10)
    answer(filled, "i1", "bob", made.id, 0, 900)  # a later revision is other work
    answer(filled, "i7", "ada", "elsewhere", 3, 500)
    found = pilot_report(filled, made.id, target=720)
    assert (found["done"], found["wanted"], found["labels"], found["timed"]) == (4, 4, 4, 4)
    assert (found["seconds"], found["median"], found["an_hour"]) == (25, 20, 144)
    assert found["flawed"]["seconds"] == 40 and found["clean"]["seconds"] == 10
    people = {one["name"]: (one["answered"], one["seconds"]) for one in found["people"]}
    assert people == {"ada": (2, 20), "bob": (2, 30)}
    assert {one["name"]: one["iou"] for one in found["agreement"]["categories"]} == {
        "mugs": 0.5,
        "hands": 1.0,
    }
    # 720 images of 2 labels at 25 seconds are 36,000 seconds.
    assert found["plan"]["labels"] == 1440 and found["plan"]["hours"] == pytest.approx(10)
    assert found["plan"]["low"] < 10 < found["plan"]["high"]


def test_pauses_and_missing_times_are_no_pace(filled: Workspace) -> None:
    chosen = ImageSelection(ids=("i0", "i1", "i2"))
    made = start_pilot(filled, NewPilot(chosen=chosen, images=3, people=["ada"]), "cy")
    for image, seconds in (("i0", 0), ("i1", 7200), ("i2", 12)):
        answer(filled, image, "ada", made.id, 1, seconds)
    found = pilot_report(filled, made.id)
    assert (found["labels"], found["timed"], found["seconds"]) == (3, 1, 12)
    assert found["agreement"]["images"] == 0


def test_the_interval_covers_what_it_says() -> None:
    """Of 200 pilots of 40 labels each, about 95 % of the intervals hold the true hours."""
    chance = np.random.default_rng(0)
    plans = [plan_hours(chance.gamma(4, 10, 40).tolist(), 900, 1) for _ in range(200)]
    inside = [plan["low"] <= 10 <= plan["high"] for plan in plans if plan]
    assert len(inside) == 200 and 0.88 <= np.mean(inside) <= 1
