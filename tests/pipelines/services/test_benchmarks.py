"""A frozen benchmark: made once from known truth, what detectors are measured on, needed by promotion."""

from dataclasses import replace
from typing import Any

import pytest

from dataengine.errors import ConfigRefused
from dataengine.records import Label
from pipelines.config import PublishConfig
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import labelled_items, real_items
from pipelines.services.benchmarks import freeze_known
from pipelines.stages.promote import promote
from storage.opening import create_workspace
from tests.fake_workspace import real_picture
from tests.pipelines.conftest import Played, broken_picture


def test_known_truth_is_frozen_once_and_again_only_when_it_changed(tmp_path: Any) -> None:
    workspace = create_workspace(tmp_path)
    image, label = broken_picture(workspace, "a photo of a hand", 1)
    photo = replace(real_picture(workspace, "a photo of a hand", 2), split="benchmark")
    with workspace.catalog() as catalog:
        catalog.images.add_many([image, photo])
        catalog.labels.submit(label)
        catalog.commit()
    first = freeze_known(workspace, "test")
    assert first.version == 1 and freeze_known(workspace, "test") == first
    with workspace.catalog() as catalog:
        items = {item.image_id: item for item in catalog.benchmarks.items(first.id)}
        clean = Label(image_id=image.id, author="late", height=32, width=32, clean=True)
        catalog.labels.submit(clean)
        catalog.commit()
    assert (items[image.id].target, items[photo.id].target) == (label.label_map, None)
    assert items[photo.id].kind == "real" and freeze_known(workspace, "test").version == 2
    workspace.close()


def test_detectors_are_measured_on_the_frozen_images(played: Played) -> None:
    workspace = played.context.workspace
    data = read_training_data(workspace, round_id=played.round_id, splits=("benchmark",))
    drawn = labelled_items(workspace.blobs, data, "benchmark", PublishConfig())
    photos = real_items(data, "benchmark", PublishConfig())
    with workspace.catalog(read_only=True) as catalog:
        newest = catalog.benchmarks.newest_frozen()
        assert newest is not None
        items = {item.image_id for item in catalog.benchmarks.items(newest.id)}
    assert {row.image_id for row in [*drawn, *photos]} == items
    assert drawn and photos and all(row.target for row in drawn)
    assert played.results["promote"]["benchmark"] == newest.version


def test_promotion_refuses_to_run_without_one(tmp_path: Any) -> None:
    from pipelines.runtime.context import Context
    from tests.fakes import fake_models

    workspace = create_workspace(tmp_path)
    with pytest.raises(ConfigRefused, match="no frozen benchmark"):
        promote(Context(workspace, fake_models()), "any round")
    workspace.close()
