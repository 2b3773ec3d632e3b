"""Publish: every kind of row, the same snapshot again, and never the benchmark."""

import pytest

from dataengine.errors import InputRefused
from pipelines.config import PublishConfig
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import real_items
from pipelines.stages.publish import publish
from tests.pipelines.conftest import Played


def test_the_snapshot_holds_all_kinds(played: Played) -> None:
    result = played.results["publish"]
    items = played.context.workspace.snapshots.read(result["snapshot"])
    assert len(items) == result["rows"] == sum(result["composition"].values())
    assert {item.kind for item in items} == {"true", "pseudo", "real"}
    assert all(item.split == "train" for item in items)
    assert len({item.image_id for item in items}) == len(items)


def test_the_same_rows_are_the_same_snapshot(played: Played) -> None:
    assert publish(played.context, played.round_id)["snapshot"] == played.results["publish"]["snapshot"]


def test_the_benchmark_stays_out(played: Played) -> None:
    measured_by = real_items(
        read_training_data(played.context.workspace, splits=("benchmark",)), "benchmark", PublishConfig()
    )
    published = played.context.workspace.snapshots.read(played.results["publish"]["snapshot"])
    assert measured_by and not {item.image_id for item in measured_by} & {item.image_id for item in published}
    with pytest.raises(InputRefused, match="benchmark"):
        played.context.workspace.snapshots.publish(measured_by)
