"""The leaderboard: kept figures in order, every version measured alike, calibration only kept."""

from xml.etree import ElementTree

import pytest

from dataengine.records import OperatingPoint
from pipelines.detectors.leaderboard import (
    calibrate_on_validation,
    format_table,
    leaderboard,
    measure_all_versions,
)
from tests.pipelines.conftest import Played


def test_the_best_on_validation_stands_first_and_the_unmeasured_last(played: Played) -> None:
    rows = leaderboard(played.context.workspace)
    known = [row["order"] for row in rows if row["order"] is not None]
    assert len(known) >= 2 and known == sorted(known)
    assert all(row["order"] is None for row in rows[len(known) :])
    assert sum(row["champion"] for row in rows) == 1
    shown = leaderboard(played.context.workspace, "benchmark")
    assert [row["detector"] for row in shown] == [row["detector"] for row in rows]
    assert shown[0]["mse"] != rows[0]["mse"]


def test_every_version_can_be_measured_on_todays_labels(played: Played) -> None:
    before = {row["detector"]: row["mse"] for row in leaderboard(played.context.workspace)}
    assert measure_all_versions(played.context, played.round_id) == len(before)
    rows = leaderboard(played.context.workspace)
    assert all(row["mse"] is not None and row["intervals"]["mse"] for row in rows)
    for row in rows:
        if before[row["detector"]] is not None:
            assert row["mse"] == pytest.approx(before[row["detector"]])
        assert row["categories"] and set(row["classes"]) <= {"1", "2", "3"}
    lines = format_table(rows)
    assert len(lines) == 2 * len(rows) + 1 and "★" in "".join(lines)
    for row, line, where in zip(rows, lines[1:], lines[1 + len(rows) :], strict=False):
        point = row["operating_point"]
        assert f"{point['flagged']:.3f}" in line and where == f"{row['name']} {point['text']}"
        assert row["operating"]["flagged"] == point["flagged"] and row["at_half"]["flagged"] == 0.5
        assert row["miss"] == row["operating"]["miss"]


def test_calibration_chooses_the_operating_point_anew(played: Played) -> None:
    catalog_of = played.context.workspace.catalog
    best = leaderboard(played.context.workspace)[0]["detector"]
    with catalog_of() as catalog:
        before = catalog.detectors.get(best).operating_point
        catalog.detectors.set_operating_point(best, OperatingPoint(flagged=0.9, component=0.9))
        catalog.commit()
    calibrate_on_validation(played.context, played.round_id, best)
    with catalog_of(read_only=True) as catalog:
        assert catalog.detectors.get(best).operating_point == before
    assert before is not None and before.rule == "false alarms at 0.9 recall"
    assert before.flawed and before.clean


def test_a_temperature_is_kept_as_a_figure(played: Played) -> None:
    best = leaderboard(played.context.workspace)[0]["detector"]
    found = calibrate_on_validation(played.context, played.round_id, best)
    assert found["temperature"] > 0 and found["after"]["error"] <= found["before"]["error"] + 0.01
    assert leaderboard(played.context.workspace)[0]["temperature"] == found["temperature"]
    picture = ElementTree.parse(played.context.workspace.path / "calibration" / f"{best}.svg").getroot()
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2
