"""What rounds and other jobs cost, on both databases."""

from dataclasses import replace

import pytest

from dataengine.records import Job, Label, Round, Study, Vote
from storage.catalog import Catalog
from storage.queries.costs import costs


def test_costs_of_a_round_and_of_a_training(filled: Catalog) -> None:
    filled.rounds.add(Round(id="q", recipe={}, stage="generate", created=1.0))
    for id, kind in (("q.draw.1", "stage"), ("q.draw.2", "stage"), ("t", "retrain"), ("idle", "retrain")):
        filled.jobs.add(Job(id=id, kind=kind, created=2.0))
    filled.jobs.add_device_seconds("q.draw.1", "cpu", 1.5)
    filled.jobs.add_device_seconds("q.draw.1", "cpu", 2.0)
    filled.jobs.add_device_seconds("q.draw.2", "cpu", 0.5)
    filled.jobs.add_device_seconds("q.draw.2", "a card", 8.0)
    filled.jobs.add_device_seconds("t", "a card", 60.0)
    answer = Label(
        image_id="050", author="ada", height=4, width=6, clean=True, round_id="q", lead_seconds=5.0
    )
    for label in (
        answer,
        answer,
        replace(answer, author="bo"),
        replace(answer, author="sim", source="simulated"),
    ):
        filled.labels.submit(label)
    filled.studies.add(
        Study(id="s", name="s", before_id="a", after_id="b", pairs=(("1", "2"),), round_id="q")
    )
    filled.votes.add(Vote(study_id="s", pair=0, rater="cy", question="quality", choice="tie", seconds=3.0))
    round_, training = costs(filled)
    assert (round_.of, round_.kind) == ("q", "round")
    assert round_.device_seconds == {"cpu": 4.0, "a card": 8.0}
    assert (round_.labels, round_.label_seconds) == (2, pytest.approx(15.0))
    assert (round_.votes, round_.vote_seconds) == (1, pytest.approx(3.0))
    assert (training.of, training.kind, training.device_seconds) == ("t", "retrain", {"a card": 60.0})


def test_nothing_has_run(filled: Catalog) -> None:
    assert costs(filled) == []


def test_images_belong_to_the_round_that_made_them(filled: Catalog) -> None:
    filled.rounds.add(Round(id="q", recipe={}, stage="generate"))
    image = filled.images.get("000")
    filled.images.add_many([replace(image, id="new", sha256="other", round_id="q")])
    assert costs(filled)[0].images == 1
