"""The curation desk's verdicts on categories are those of a round."""

from pathlib import Path

import pytest

from dataengine.curation.config import HardCategoryConfig
from pipelines.round import advance
from pipelines.runtime.round_data import results_of
from pipelines.services.categories import category_report, statistic_of
from tests.pipelines.conftest import fresh_context, play


def test_a_round_and_the_desk_agree_on_the_same_images(tmp_path: Path) -> None:
    context, round_id = fresh_context(tmp_path / "workspace")
    play(context, round_id, until="write_prompts")
    with context.workspace.catalog(read_only=True) as catalog:
        detector = catalog.rounds.get(round_id).results["diagnose"]["detector"]
        report = category_report(catalog, detector)["categories"]
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
