"""docs/generators.md says of every class what its row says, and leaves none out."""

import inspect
import re

import diffusers
import pytest

from dataengine.treatment.families.rows import ROWS
from tests.dataengine.treatment.families.test_upstream_faults import FAULTS
from tests.pipelines.rig import REPOSITORY

PAGE = (REPOSITORY / "docs" / "generators.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def cells(section: str) -> dict[str, list[str]]:
    """The lines of a section's table by their first cell."""
    rows = re.findall(r"^\| (.+) \|$", SECTIONS[section], re.MULTILINE)
    return {row.split(" | ")[0]: row.split(" | ") for row in rows[1:]}


def test_every_row_has_its_line_with_its_licence() -> None:
    table = cells("Classes with a row")
    assert {f"{name}Pipeline" for name in table} == set(ROWS)
    for name, line in table.items():
        row = ROWS[f"{name}Pipeline"]
        assert line[2] == (row.distilled or "–") and line[3] == row.licence


def test_all_classes_are_named_once_and_exist() -> None:
    names = [name for section in SECTIONS if section.startswith("Classes") for name in cells(section)]
    assert len(names) == len(set(names)) == 58
    for name in names:
        kind = getattr(diffusers, f"{name}Pipeline")
        assert "prompt" in inspect.signature(kind.__call__).parameters


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.persists.__name__)
def test_every_fault_is_told(fault) -> None:
    told = ", ".join(cells("Faults of diffusers that we work around"))
    assert all(kind.removesuffix("Pipeline") in told for kind in fault.kinds)
