"""Pseudo-label: the teacher's maps, on training images that nobody answered."""

import numpy as np

from dataengine.records.images import HARD, SURVEY
from pipelines.runtime.round_data import images_of
from tests.pipelines.conftest import Played, run_one


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
