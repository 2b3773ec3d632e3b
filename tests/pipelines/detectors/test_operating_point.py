"""A trained detector gets its operating point on validation; others say why they keep 0.5."""

from dataclasses import replace

import numpy as np

from dataengine.diagnosis.config import OperatingPointConfig
from dataengine.diagnosis.image_metrics import image_metrics
from dataengine.records import (
    DetectorVersion,
    OperatingPoint,
    SnapshotItem,
    component_threshold_of,
    describe_point,
    threshold_of,
)
from pipelines.config import EvaluateConfig
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.detectors.operating_point import (
    ensure_operating_point,
    set_operating_point,
    validation_items,
)
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.round_data import recipe_of
from tests.pipelines.conftest import Played


def item(image: str, target: str | None, kind: str = "true") -> SnapshotItem:
    return SnapshotItem(image_id=image, image_sha256=image, kind=kind, target=target)  # type: ignore[arg-type]


def test_real_photos_count_only_where_no_label_is_clean() -> None:
    photo = item("photo", None, "real")
    flawed, clean = item("a", "map"), item("b", None)
    assert validation_items({"validation": [flawed, clean], "validation_real": [photo]}) == [flawed, clean]
    assert validation_items({"validation": [flawed], "validation_real": [photo]}) == [flawed, photo]
    assert validation_items({"benchmark": [flawed]}) == []


def test_detectors_of_a_round_have_a_point_that_no_other_threshold_beats(played: Played) -> None:
    context = played.context
    sets = evaluation_sets(context, recipe_of(context, played.round_id).publish, played.round_id)
    samples = StoredSamples(context.workspace, sets["validation"])
    examples = [samples.sample(index) for index in range(len(samples))]
    for stage in ("train_teacher", "retrain"):
        with context.workspace.catalog(read_only=True) as catalog:
            version = catalog.detectors.get(played.results[stage]["detector"])
        detector = open_detector(context, version.id)
        maps = context.models.artifact_maps(detector, [one.image for one in examples], 8)
        rows = [image_metrics(one.target, q) for one, q in zip(examples, maps, strict=True)]

        def recall(threshold: float, rows: list = rows) -> float:
            return float(np.mean([row.max >= threshold for row in rows if row.flawed]))

        def false_alarms(threshold: float, rows: list = rows) -> int:
            return sum(row.max >= threshold for row in rows if not row.flawed)

        point = version.operating_point
        assert point is not None and point.rule == "false alarms at 0.9 recall" and not point.reason
        assert (point.flawed, point.clean) == (
            sum(row.flawed for row in rows),
            sum(not row.flawed for row in rows),
        )
        tried = sorted(row.max for row in rows)[1:]
        chosen = threshold_of(version)
        assert recall(chosen) >= 0.9
        assert false_alarms(chosen) == min(false_alarms(each) for each in tried if recall(each) >= 0.9)
        assert component_threshold_of(version) <= threshold_of(version)


def test_the_rule_is_a_setting(played: Played) -> None:
    context, detector = played.context, played.results["retrain"]["detector"]
    sets = evaluation_sets(context, recipe_of(context, played.round_id).publish, played.round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        before = catalog.detectors.get(detector).operating_point
    rule = EvaluateConfig(operating_point=OperatingPointConfig(rule="recall_at", false_alarm=0.2))
    found = set_operating_point(context, detector, sets, rule).operating_point
    assert found is not None and found.rule == "recall at 0.2 false alarms"
    assert set_operating_point(context, detector, sets, EvaluateConfig()).operating_point == before


def test_one_without_a_point_gets_it_once_there_are_validation_images(played: Played) -> None:
    context, config = played.context, EvaluateConfig()
    sets = evaluation_sets(context, recipe_of(context, played.round_id).publish, played.round_id)
    with context.workspace.catalog() as catalog:
        known = catalog.detectors.get(played.results["retrain"]["detector"])
        bare = replace(known, id="bare", role="candidate", operating_point=None)
        catalog.detectors.add(bare)
        catalog.commit()
    assert ensure_operating_point(context, "bare", {}, config).operating_point is None
    found = ensure_operating_point(context, "bare", sets, config)
    assert found.operating_point == known.operating_point
    with context.workspace.catalog() as catalog:
        kept = OperatingPoint(flagged=0.3, component=0.3, rule="f2")
        catalog.detectors.set_operating_point("bare", kept)
        catalog.commit()
    assert ensure_operating_point(context, "bare", sets, config).operating_point == kept


def test_a_detector_says_where_its_threshold_comes_from() -> None:
    version = DetectorVersion(id="d", name="d", checkpoint="c")
    assert (threshold_of(version), component_threshold_of(version)) == (0.5, 0.5)
    assert "no operating point has been chosen yet" in describe_point(version)["text"]
    point = OperatingPoint(reason="every validation image is flawed", flawed=4)
    said = describe_point(replace(version, operating_point=point))
    assert said["flagged"] == 0.5 and "because every validation image is flawed" in said["text"]
    point = OperatingPoint(flagged=0.07, component=0.05, rule="f2", flawed=4, clean=6, interval=(0.05, 0.3))
    said = describe_point(replace(version, operating_point=point))
    assert (said["flagged"], said["component"]) == (0.07, 0.05)
    for words in ("0.07", "0.05 to 0.3", "f2 on 4 flawed validation images and 6 without a flaw"):
        assert words in said["text"]
