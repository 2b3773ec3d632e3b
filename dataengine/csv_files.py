"""CSV files that spreadsheet programs open safely, and that we read back unchanged."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet may evaluate a text that begins with one of these."""


def as_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table that a spreadsheet opens without evaluating its cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


class CsvTable:
    """A table that is written row by row to a file opened with `newline=""`."""

    def __init__(self, file: IO[str], columns: Sequence[str]) -> None:
        self._writer, self._columns = csv.writer(file), columns
        self._writer.writerow(columns)

    def add(self, row: Mapping[str, object]) -> None:
        """Write one row; keys that are no column are left out, missing ones are empty."""
        self._writer.writerow([escape_formula(row.get(column)) for column in self._columns])


def escape_formula(cell: object) -> object:
    """Prefix a text that a spreadsheet would evaluate with an apostrophe; numbers stay numbers."""
    if isinstance(cell, str) and cell.lstrip("'").startswith(FORMULA) and not _is_number(cell):
        return f"'{cell}"
    return cell


def unescape_formula(cell: str) -> str:
    """The text as it was before `escape_formula`."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def unescape_row(row: Mapping[str, str]) -> dict[str, str]:
    """A row of `csv.DictReader` with its cells as they were; cells beyond the header are kept as they are."""
    return {name: unescape_formula(cell) if isinstance(cell, str) else cell for name, cell in row.items()}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
