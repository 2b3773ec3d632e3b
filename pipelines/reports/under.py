"""Does a LoRA hold where people draw: the cells as report.json, cells.csv and a page, bad ones first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataengine.csv_files import as_csv
from dataengine.images import decode
from pipelines.reports.gallery import SIDE, embed, render_page
from pipelines.reports.output_files import write_file, writing

TEMPLATE = Path(__file__).with_name("under.html")
REPORT, CELLS, PAGE, CARD, EXAMPLES = (
    "report.json",
    "cells.csv",
    "under.html",
    "model_card_section.md",
    "cells",
)
COLUMNS = (
    "name",
    "axis",
    "verdict",
    "before",
    "after",
    "ratio",
    "low",
    "high",
    "detail",
    "prompts",
    "images",
)
ORDER = ("bad", "holds", "no artifacts in the base")


def write_under(
    out: Path, heading: Mapping[str, Any], result: Mapping[str, Any], card: str
) -> dict[str, Any]:
    """Write everything below `out`, where the examples of the cells lie already, and return the report.

    `heading` says what was compared: before, after, detector, prompts, notes. `card` is the section for the
    model card. Raises `WorkspaceUnusable` where nothing can be written.
    """
    report = {**heading, **result}
    with writing(out):
        write_file(out / CELLS, cells_csv(result).encode())
        write_file(out / PAGE, render_page(TEMPLATE, **_shown(out, heading, result)).encode())
        write_file(out / CARD, card.encode())
        write_file(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return report


def cells_csv(result: Mapping[str, Any]) -> str:
    """One line per cell, bad ones first."""
    rows = []
    for cell in bad_first(result["cells"]):
        low, high = cell["interval"] or (None, None)
        values = {**cell, "low": low, "high": high, "prompts": result["prompts"], "images": result["images"]}
        rows.append(["" if values[name] is None else values[name] for name in COLUMNS])
    return as_csv(COLUMNS, rows)


def bad_first(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells by verdict and ratio, the worst first."""
    return sorted(cells, key=lambda cell: (ORDER.index(cell["verdict"]), -(cell["ratio"] or 0.0)))


def _shown(out: Path, heading: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    tiles = []
    for cell in bad_first(result["cells"]):
        strips = [embed(decode((out / EXAMPLES / name).read_bytes()), 2 * SIDE) for name in cell["examples"]]
        tiles.append({**cell, "strips": strips})
    return {"heading": heading, "result": result, "tiles": tiles}
