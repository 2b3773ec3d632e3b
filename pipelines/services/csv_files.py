"""CSV files that spreadsheet programs open safely."""

import csv
import io
from collections.abc import Iterable


def as_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table that a spreadsheet opens without evaluating its cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def escape_formula(cell: object) -> object:
    """Prefixes text that a spreadsheet would evaluate as a formula with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
