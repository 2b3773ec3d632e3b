"""Backup under load, restored elsewhere with the old path gone, and a round finished there."""

from pathlib import Path

import pytest

from tests.drill import drill


@pytest.mark.timeout(120)
def test_a_round_is_finished_in_a_restored_workspace(tmp_path: Path) -> None:
    found = drill(tmp_path)
    assert found.acknowledged > 5 and found.rows > 100
    assert (found.lost, found.other_rows, found.other_blobs, found.unfinished) == ([], [], [], [])
