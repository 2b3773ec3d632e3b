"""Records of repairs: what a resumed run believes."""

import json
from pathlib import Path

import pytest

from dataengine.records import digest
from pipelines.repair.outcomes import (
    RECORDS,
    ImageOutcome,
    RegionOutcome,
    count_states,
    read_record,
    report_csv,
    write_record,
)

TAKEN = RegionOutcome(verdict="repaired", before=0.9, after=0.1, draw=2, crop=(0, 0, 8, 8), area=0.1)
LEFT = RegionOutcome(
    verdict="still flawed", before=0.95, after=0.95, draw=None, crop=(8, 8, 16, 16), area=0.1
)
DONE = ImageOutcome(
    file="in/a.jpg",
    state="repaired",
    output="a.png",
    sha256="0" * 64,
    key="k",
    regions=(TAKEN, LEFT),
    seconds=2,
)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, "a", DONE)
    assert read_record(tmp_path, "a") == DONE and read_record(tmp_path, "b") is None


@pytest.mark.parametrize(
    "change",
    [{"output": "../a.png"}, {"output": "/etc/passwd"}, {"regions": 3}, {"more": 1}, {"output": 5}],
)
def test_a_record_that_was_tampered_with_is_not_believed(change: dict[str, object], tmp_path: Path) -> None:
    write_record(tmp_path, "a", DONE)
    file = tmp_path / RECORDS / f"{digest('a')}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert read_record(tmp_path, "a") is None
    for text in ("", "[]", "null", '{"file": "a"', "\xff"):
        file.write_text(text, encoding="latin-1")
        assert read_record(tmp_path, "a") is None


def test_the_gain_is_that_of_what_was_redrawn() -> None:
    assert DONE.gain == pytest.approx(0.8)
    assert ImageOutcome(file="b", state="unchanged", regions=(LEFT,)).gain == 0


def test_figures_and_report() -> None:
    outcomes = [DONE, ImageOutcome(file="@b", state="refused", reason="no image")]
    assert count_states(outcomes) == {
        "repaired": 1,
        "unchanged": 0,
        "refused": 1,
        "regions": 2,
        "regions_repaired": 1,
    }
    head, first, second = report_csv(outcomes).splitlines()
    assert head.startswith("file,output,state,regions,repaired,verdicts,peaks_before,peaks_after,seconds")
    assert first == "in/a.jpg,a.png,repaired,2,1,repaired; still flawed,0.900; 0.950,0.100; 0.950,2,,"
    assert second.startswith("'@b,,refused,0,0,")
