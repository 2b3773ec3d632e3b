"""One place says from which confidence on a map shows an artifact."""

import ast
from pathlib import Path
from typing import Any

import pytest

from dataengine.records import THRESHOLD, DetectorVersion, Prediction, SampleKind, SnapshotItem, threshold_of
from pipelines.generators.comparison import Pair, confidence_figures
from tests.pipelines.conftest import Played, run_one
from tests.pipelines.rig import REPOSITORY


def literal_thresholds(path: Path) -> list[str]:
    """Comparisons with a literal 0.5, by file and line."""
    return [
        f"{path}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(each, ast.Constant) and each.value == 0.5 for each in node.comparators)
    ]


def test_nothing_compares_a_confidence_with_a_number_of_its_own(tmp_path: Path) -> None:
    paths = [path for layer in ("pipelines", "storage", "ui") for path in (REPOSITORY / layer).rglob("*.py")]
    assert [found for path in paths for found in literal_thresholds(path)] == []
    (tmp_path / "planted.py").write_text("flagged = highest >= 0.5\n")
    assert len(literal_thresholds(tmp_path / "planted.py")) == 1


def test_a_detector_has_a_threshold() -> None:
    assert threshold_of(DetectorVersion(id="d", name="d", checkpoint="c")) == THRESHOLD


@pytest.mark.parametrize(
    ("kind", "target", "highest", "positive"),
    [
        ("true", "t", 0.0, True),
        ("true", None, 1.0, False),
        ("pseudo", "t", THRESHOLD, True),
        ("pseudo", "t", THRESHOLD - 0.01, False),
        ("real", None, 0.0, False),
    ],
)
def test_a_training_example_is_positive(
    kind: SampleKind, target: str | None, highest: float, positive: bool
) -> None:
    item = SnapshotItem(image_id="i", image_sha256="s", kind=kind, target=target, max_confidence=highest)
    assert item.positive is positive


def test_a_stage_counts_from_the_detectors_threshold(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for threshold in (0.0, 0.5, 1.01):
        monkeypatch.setattr(
            "pipelines.stages.diagnose.threshold_of", lambda version, value=threshold: float(value)
        )
        counts.append(run_one(played.context, played.round_id, "diagnose"))
    assert counts[0]["suspected"] == counts[0]["images"] > counts[1]["suspected"] > 0
    assert counts[2]["suspected"] == 0


def test_a_comparison_counts_from_the_threshold_that_it_is_given(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.find(limit=1)[0]
    seen = [Prediction(image_id=image.id, detector_id="d", max=0.6, mean=0.1, uncertainty=0.0)]
    pairs = [Pair(before=image, after=image)]
    for threshold, share in ((0.5, 1.0), (0.7, 0.0)):
        figures: Any = confidence_figures(pairs, seen, seen, threshold)
        assert figures["flagged"]["before"] == figures["flagged"]["after"] == share
        assert figures["threshold"] == threshold
        # The paper's artifact frequency is always from 0.5.
        assert figures["frequency"]["before"] == figures["frequency"]["after"] == 1.0
