"""Formulas in cells are defused in every CSV file that we write, and read back unchanged."""

import ast
import csv
import io
from pathlib import Path

import pytest

from dataengine.csv_files import CsvTable, as_csv, escape_formula, unescape_formula, unescape_row
from tests.test_architecture import ROOT, modules

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\r=1", "\n=1", "'=1", "''@x")
READERS = {"reader", "DictReader", "Error"}
"""What other modules may use of `csv`."""


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_begins_with_an_apostrophe_and_comes_back(text: str) -> None:
    escaped = escape_formula(text)
    assert escaped == f"'{text}" and unescape_formula(str(escaped)) == text


@pytest.mark.parametrize("cell", [-1, 2.5, "-1.5", "+3e4", "a = b", "", "'tis", None, "a hand"])
def test_numbers_and_plain_texts_stay(cell: object) -> None:
    assert escape_formula(cell) == cell
    if isinstance(cell, str):
        assert unescape_formula(cell) == cell


def test_tables_are_escaped_in_every_cell() -> None:
    file = io.StringIO(newline="")
    table = CsvTable(file, ("name", "note", "n"))
    table.add({"name": "=1", "note": "@x", "n": -3, "more": "left out"})
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert rows == [{"name": "'=1", "note": "'@x", "n": "-3"}]
    assert unescape_row(rows[0]) == {"name": "=1", "note": "@x", "n": "-3"}
    assert as_csv(("a",), [("=1",), (2,)]) == "a\n'=1\n2\n"


def uses_of_csv(path: Path) -> set[str]:
    """Attributes of the module `csv`, and of `to_csv`, that a file uses."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            of_csv = isinstance(node.value, ast.Name) and node.value.id == "csv"
            found |= {node.attr} if of_csv or node.attr in ("to_csv", "write_csv") else set()
        elif isinstance(node, ast.ImportFrom) and node.module == "csv":
            found |= {alias.name for alias in node.names}
    return found


def test_no_other_module_writes_csv() -> None:
    home = ROOT / "dataengine" / "csv_files.py"
    assert "writer" in uses_of_csv(home), "the walk sees what it forbids"
    others = {
        str(path.relative_to(ROOT)): uses_of_csv(path) - READERS
        for path in [*modules(), ROOT / "app.py"]
        if path != home
    }
    assert not {path: uses for path, uses in others.items() if uses}
