"""CSV files that spreadsheet programs open safely."""

import csv
import io
from collections.abc import Iterable


def as_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table that a spreadsheet opens without running anything that stands in it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
