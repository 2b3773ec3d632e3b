"""Composition: which label counts, what is clean, and whose confidence decides on shrinking."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dataengine.diagnosis.config import AugmentationConfig, DetectorTrainingConfig
from dataengine.images import encode_png
from dataengine.masks import pack_label_map
from dataengine.records import Image, Label, Review, SnapshotItem
from dataengine.records.images import HARD, SURVEY
from pipelines.config import PublishConfig
from pipelines.detectors.training_data import read_categories, read_training_data
from pipelines.detectors.training_set import (
    build_training_set,
    count_by_kind,
    labelled_items,
    merge_labels,
    pseudo_labelled_items,
    real_items,
)
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from storage.queries.labels import valid_labels
from tests.fake_workspace import prepare
from tests.fakes import fake_models
from tests.pipelines.conftest import Played, fresh_context, play

WEIGHTS = PublishConfig(true_weight=2.0, previous_weight=0.5)


def labelled_of(context: Context, round_id: str, weights: PublishConfig) -> list[SnapshotItem]:
    """The round's labelled training images."""
    data = read_training_data(context.workspace, weights.labels, round_id)
    return labelled_items(context.workspace.blobs, data, "train", weights)


def relabel(context: Context, image_id: str, **changes: object) -> Label:
    """A further answer by somebody else."""
    with context.workspace.catalog() as catalog:
        label = catalog.labels.latest(image_id)
        assert label is not None
        stored = catalog.labels.submit(replace(label, created=label.created + 1, **changes))  # type: ignore[arg-type]
        catalog.commit()
    return stored


@pytest.fixture
def answered(tmp_path) -> tuple[Context, str]:  # type: ignore[no-untyped-def]
    context, round_id = fresh_context(tmp_path / "workspace")
    play(context, round_id, until="train_teacher")
    return context, round_id


def test_the_newest_label_that_nobody_rejected_counts(answered: tuple[Context, str]) -> None:
    context, round_id = answered
    flawed = next(item for item in labelled_of(context, round_id, WEIGHTS) if item.target)
    second = relabel(context, flawed.image_id, author="ben", clean=True, label_map=None)
    found = {item.image_id: item for item in labelled_of(context, round_id, WEIGHTS)}[flawed.image_id]
    assert (found.target, found.author) == (None, "ada + ben")
    with context.workspace.catalog() as catalog:
        review = Review(
            image_id=second.image_id,
            author="ben",
            revision=second.revision,
            reviewer="cora",
            verdict="rejected",
        )
        catalog.reviews.add(review)
        catalog.commit()
    found = {item.image_id: item for item in labelled_of(context, round_id, WEIGHTS)}[flawed.image_id]
    assert (found.target, found.author) == (flawed.target, flawed.author)


def test_a_training_set_is_built_from_one_read(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    context, opened = played.context, []
    catalog = context.workspace.catalog
    monkeypatch.setattr(context.workspace, "catalog", lambda **how: (opened.append(how), catalog(**how))[1])
    items = build_training_set(context, WEIGHTS, played.round_id)
    assert opened == [{"read_only": True}]
    assert {"true", "real", "pseudo"} <= count_by_kind(items).keys()


def test_labels_from_before_the_round_are_previous_ones(answered: tuple[Context, str]) -> None:
    context, round_id = answered
    ours = labelled_of(context, round_id, WEIGHTS)
    with context.workspace.catalog(read_only=True) as catalog:
        recipe = catalog.rounds.get(round_id).recipe
    later = start_round(context.workspace, recipe, "test")
    others = labelled_of(context, later.id, WEIGHTS)
    assert {(item.kind, item.weight) for item in ours} == {("true", 2.0)}
    assert {(item.kind, item.weight) for item in others} == {("previous", 0.5)}


def test_the_first_detectors_confidence_decides_on_shrinking(played: Played) -> None:
    items = labelled_of(played.context, played.round_id, WEIGHTS)
    with played.context.workspace.catalog(read_only=True) as catalog:
        seen = {each.image_id: each.max for each in catalog.predictions.of("first")}
    assert items and all(item.max_confidence == seen[item.image_id] for item in items)


def training(**changes: object) -> DetectorTrainingConfig:
    """A training that shrinks what it may."""
    return DetectorTrainingConfig(augmentation=AugmentationConfig(**({"shrink": 0.5} | changes)))  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path) -> Iterator[tuple[Context, str, str]]:  # type: ignore[no-untyped-def]
    """A workspace whose champion sees nothing in one photo and something in another."""
    workspace = create_workspace(tmp_path / "workspace")
    prepare(workspace, real=0)
    images = []
    for name, colour in (("quiet", (90, 90, 90)), ("suspect", (250, 5, 5))):
        pixels = np.full((32, 32, 3), 90, np.uint8)
        pixels[10:20, 10:20] = colour
        sha256 = workspace.blobs.put(encode_png(pixels))
        images.append(
            Image(id=name, sha256=sha256, height=32, width=32, source="real", split="train", group=name)
        )
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()
    yield Context(workspace, fake_models()), "quiet", "suspect"
    workspace.close()


def highest(items: list[SnapshotItem]) -> dict[str, float]:
    return {item.image_id: item.max_confidence for item in items}


def test_a_real_photos_confidence_is_measured_for_dynamic_shrink(photos: tuple[Context, str, str]) -> None:
    """Not assumed to be 0: the champion's false alarm keeps a photo from being shrunk."""
    context, quiet, suspect = photos
    with context.workspace.catalog(read_only=True) as catalog:
        assert catalog.detectors.champion_id() == "first"
    measured = highest(build_training_set(context, WEIGHTS, training=training()))
    threshold = AugmentationConfig().shrink_below
    assert measured[quiet] < threshold <= measured[suspect] < 1
    with context.workspace.catalog(read_only=True) as catalog:
        stored = {one.image_id: one.max for one in catalog.predictions.of("first", [quiet, suspect])}
    assert stored == measured
    again = highest(build_training_set(context, WEIGHTS))
    assert again == measured, "what is stored counts for every training"


@pytest.mark.parametrize("changes", [{"shrink": 0.0}, {"shrink_kinds": ("pseudo",)}, None])
def test_a_training_that_shrinks_no_photos_measures_none(
    photos: tuple[Context, str, str], changes: dict[str, object] | None
) -> None:
    context, quiet, suspect = photos
    settings = None if changes is None else training(**changes)
    assert highest(build_training_set(context, WEIGHTS, training=settings)) == {quiet: 1.0, suspect: 1.0}
    with context.workspace.catalog(read_only=True) as catalog:
        assert not catalog.predictions.of("first", [quiet, suspect])


def test_a_round_measures_with_the_detector_of_its_diagnosis(played: Played) -> None:
    workspace = played.context.workspace
    items = workspace.snapshots.read(played.results["publish"]["snapshot"])
    real = [item for item in items if item.kind == "real"]
    with workspace.catalog(read_only=True) as catalog:
        stored = {one.image_id: one.max for one in catalog.predictions.of("first")}
    assert real and all(item.max_confidence == pytest.approx(stored[item.image_id]) for item in real)


def test_pseudo_labels_leave_what_is_taken(played: Played) -> None:
    data = read_training_data(played.context.workspace, round_id=played.round_id)
    everything = pseudo_labelled_items(data, (), WEIGHTS)
    fewer = pseudo_labelled_items(data, [everything[0].image_id], WEIGHTS)
    assert len(fewer) == len(everything) - 1
    assert all(":" in (item.target or "") for item in everything)


def test_real_pictures_are_clean_and_limited(played: Played) -> None:
    items = real_items(read_training_data(played.context.workspace), "train", PublishConfig(real_limit=3))
    assert len(items) == 3 and {(item.kind, item.target) for item in items} == {("real", None)}
    assert count_by_kind(items) == {"real": 3}


def test_a_category_comes_from_the_model_or_the_prompt(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY, HARD)
    categories = read_categories(played.context.workspace, played.round_id, images)
    assert len(categories) == len(images)
    assert {categories[image.id] for image in images if image.purpose == HARD} == {"hand", "face"}


def test_several_opinions_are_merged_and_a_policy_may_ask_for_approval(played: Played) -> None:
    context, workspace = played.context, played.context.workspace
    row = next(item for item in labelled_of(context, played.round_id, PublishConfig()) if item.target)
    opinions = []
    for author, value in (("bea", 1), ("cid", 1), ("dan", 0)):
        drawn = np.full((32, 32), value, np.uint8)
        blob = workspace.blobs.put(pack_label_map(drawn)) if value else None
        opinions.append(
            Label(image_id="x", author=author, height=32, width=32, label_map=blob, clean=blob is None)
        )
    together = merge_labels(workspace.blobs, opinions)
    assert together.label_map == opinions[0].label_map and not together.clean
    assert together.author == "bea + cid + dan"
    assert merge_labels(workspace.blobs, opinions[2:]) == opinions[2]
    with workspace.catalog() as catalog:
        label = catalog.labels.latest(row.image_id)
        assert label is not None
        review = Review(
            image_id=row.image_id,
            author=label.author,
            revision=label.revision,
            reviewer="c",
            verdict="accepted",
        )
        catalog.reviews.add(review)
        approved = valid_labels(catalog, [row.image_id], "approved")
        others = valid_labels(catalog, catalog.images.ids(), "approved")
    assert list(approved) == [row.image_id] == list(others), "the rollback leaves nothing approved"
