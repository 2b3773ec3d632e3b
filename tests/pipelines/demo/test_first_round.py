"""What a Space begins with."""

from pathlib import Path

import pytest

from pipelines.config import RoundRecipe
from pipelines.demo import first_round
from pipelines.demo.first_round import TO_LABEL, begin_first_round, recipe
from storage.opening import create_workspace


def test_its_recipe_is_small_and_leaves_training_and_treating_to_people() -> None:
    found = RoundRecipe.model_validate(recipe())
    assert found.parts == ("detector",) and found.mine.budget == TO_LABEL
    assert found.generate.prompts_per_category <= 3 and found.generate.sampling.steps == 5


def test_a_second_start_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    monkeypatch.setattr(first_round, "prepare", lambda workspace, data: prepared.append(data))
    workspace = create_workspace(tmp_path / "w")
    for _ in range(2):
        begin_first_round(workspace)
    with workspace.catalog(read_only=True) as catalog:
        (row,) = catalog.rounds.list()
    assert row.recipe["name"] == "cpu-smoke" and len(prepared) == 1
