"""Pseudo-label: the teacher's maps, on training images that nobody answered."""

from dataclasses import replace

import numpy as np

from dataengine.records.images import HARD, SURVEY
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of
from tests.fake_workspace import answer_queue
from tests.pipelines.conftest import Played, play, run_one


def test_labels_what_people_have_not(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        pseudo = catalog.pseudo_labels.of_round(played.round_id)
        answered = {label.image_id for label in catalog.labels.of_round(played.round_id)}
    images = images_of(played.context, played.round_id, SURVEY, HARD)
    training = {image.id for image in images if image.split == "train"}
    assert {label.image_id for label in pseudo} == training - answered
    assert {label.detector_id for label in pseudo} == {played.results["train_teacher"]["detector"]}


def test_the_maximum_is_that_of_the_map(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        pseudo = catalog.pseudo_labels.of_round(played.round_id)
    for label in pseudo:
        stored = played.context.workspace.maps.get(label.map_ref)
        assert abs(float(np.max(stored)) / 255 - label.max) <= 0.5 / 255 + 1e-6


def test_again_gives_the_same(played: Played) -> None:
    assert run_one(played.context, played.round_id, "pseudo_label") == played.results["pseudo_label"]


def test_mined_images_that_nobody_answered_get_none(fresh: tuple[Context, str]) -> None:
    """A round that waits for half of its queue goes on without the other half's labels, and without the
    detector's own word on it: these are the images that it finds hard."""
    context, round_id = fresh
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
        recipe = {**row.recipe, "wait_for_labels": {"share": 0.5}}
        catalog.rounds.add(replace(row, id="hasty", recipe=recipe))
        catalog.commit()
    play(context, "hasty", until="wait_for_labels")
    with context.workspace.catalog(read_only=True) as catalog:
        mined = {item.image_id for item in catalog.queue.of_round("hasty")}
    answer_queue(context.workspace, "hasty", most=len(mined) - 2)
    play(context, "hasty", until="publish")
    with context.workspace.catalog(read_only=True) as catalog:
        pseudo = {label.image_id for label in catalog.pseudo_labels.of_round("hasty")}
        answered = {label.image_id for label in catalog.labels.of_round("hasty")}
    assert len(mined - answered) == 2 and pseudo and pseudo.isdisjoint(mined)
