"""The curation desk's verdicts on categories are those of a round."""

from pathlib import Path

import pytest

from dataengine.curation.config import HardCategoryConfig
from dataengine.records import OperatingPoint
from pipelines.round import advance
from pipelines.runtime.round_data import results_of
from pipelines.services.categories import Ask, category_report, send_to_people, statistic_of
from tests.pipelines.conftest import fresh_context, play


def test_a_round_and_the_desk_agree_on_the_same_images(tmp_path: Path) -> None:
    context, round_id = fresh_context(tmp_path / "workspace")
    play(context, round_id, until="write_prompts")
    with context.workspace.catalog(read_only=True) as catalog:
        detector = catalog.rounds.get(round_id).results["diagnose"]["detector"]
        report = category_report(catalog, detector)["categories"]
        assert category_report(catalog, detector)["threshold"] == 0.5
    advance(context, round_id)
    results = results_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        judged = {row.category: row for row in catalog.hard.of_round(round_id)}
    desk = {row["category"]: row for row in report}
    assert judged.keys() == desk.keys() and len(judged) > 2
    for category, row in desk.items():
        found = judged[category]
        assert (row["images"], row["verdict"] == "hard") == (found.images, found.hard)
        assert (row["mean"], row["limit"]) == pytest.approx((found.statistic, found.limit), abs=1e-12)
    assert {row["category"] for row in report if row["verdict"] == "hard"} == set(
        results["write_prompts"]["hard"]
    )
    evidence = {row["category"]: row for row in results["write_prompts"]["evidence"] if not row["generator"]}
    assert [row["z"] for row in report] == pytest.approx([evidence[name]["z"] for name in desk])
    context.workspace.close()


def test_the_desk_judges_by_the_newest_rounds_settings(tmp_path: Path) -> None:
    context, round_id = fresh_context(tmp_path / "workspace")
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
        assert statistic_of(catalog) == HardCategoryConfig.model_validate(
            row.recipe["write_prompts"]["statistic"]
        )
    context.workspace.close()


def test_desk_and_round_start_at_the_detectors_operating_point(tmp_path: Path) -> None:
    context, round_id = fresh_context(tmp_path / "workspace")
    play(context, round_id, until="write_prompts")
    with context.workspace.catalog() as catalog:
        detector = catalog.rounds.get(round_id).results["diagnose"]["detector"]
        point = OperatingPoint(flagged=0.3, component=0.2, rule="f2")
        catalog.detectors.set_operating_point(detector, point)
        catalog.commit()
        report = category_report(catalog, detector)
    assert report["threshold"] == 0.3
    play(context, round_id, until="wait_for_labels")
    with context.workspace.catalog(read_only=True) as catalog:
        items = catalog.queue.of_round(round_id)
        seen = catalog.predictions.of(detector, [item.image_id for item in items])
        limits = {one.category: one.limit for one in catalog.hard.of_round(round_id)}
    assert {row["category"]: row["limit"] for row in report["categories"]} == pytest.approx(limits)
    highest = {one.image_id: one.max for one in seen}
    random_ones = {item.image_id for item in items if "random sample below" in item.reason}
    assert {id for id, value in highest.items() if value < 0.3} == random_ones < highest.keys()
    context.workspace.close()


def test_what_is_queued_names_the_detector_that_sent_it(tmp_path: Path) -> None:
    context, round_id = fresh_context(tmp_path / "workspace")
    play(context, round_id, until="mine")
    with context.workspace.catalog(read_only=True) as catalog:
        detector = catalog.rounds.get(round_id).results["diagnose"]["detector"]
        category = category_report(catalog, detector)["categories"][0]["category"]
    sent = send_to_people(context.workspace, Ask(thresholds={category: 0.0}, round="desk-1", limit=2), "ann")
    play(context, round_id, until="wait_for_labels")
    with context.workspace.catalog(read_only=True) as catalog:
        items = [*catalog.queue.of_round(round_id), *catalog.queue.of_round("desk-1")]
        senders = {catalog.queue.sent_by(item.image_id, item.round_id) for item in items}
    assert sent == 2 and len(items) > 2
    assert senders == {item.detector_id for item in items} == {detector}
    context.workspace.close()
