"""The results of a comparison in a folder: report, table of pairs, page and contact sheet, worst first."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.csv_files import as_csv
from dataengine.images import encode_png
from dataengine.masks import dequantise
from dataengine.records import count_of
from pipelines.generators.measures import MeasuredPairs
from pipelines.generators.similarity import MEASURES
from pipelines.reports.contact_sheet import Gallery, Tile, render_sheet
from pipelines.reports.gallery import MOST, SIDE, embed, render_page
from pipelines.reports.output_files import write_file, writing
from pipelines.runtime.images import read_pixels
from storage.workspace import Workspace

TEMPLATE = Path(__file__).with_name("comparison.html")
REPORT, PAIRS, PAGE, SHEET = "report.json", "pairs.csv", "comparison.html", "pairs.jpg"
BEFORE, AFTER = "before", "after"
IN_THE_SHEET = 24
QUALITY = 88
LABELS = {
    "mean_confidence": "mean confidence",
    "max_confidence": "maximum confidence",
    "frequency": "artifact frequency at 0.5",
    "flagged": "artifact frequency at the operating point",
    "detail": "detail",
    "diversity": "diversity of a prompt's images",
    "attributes": "attributes shown",
    "alignment": "alignment with the prompt",
}
"""Figures with a value before and after, in the order of the page; scorers follow by their own names."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What was compared, as the report says it."""

    before: str
    after: str
    detector: str
    prompts: str = ""
    notes: Sequence[str] = ()
    left_out: Sequence[tuple[str, str]] = ()
    """Files that could not be compared, with the reason."""


def write_comparison(
    workspace: Workspace,
    out: Path,
    heading: Heading,
    measured: MeasuredPairs,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write everything below `out`, and return the report. Without `names`, of files that are there already,
    the images are written too, by the number of their pair.

    Raises `WorkspaceUnusable` where nothing can be written.
    """
    order = measured.worst_first
    files = list(names) if names is not None else [f"{row + 1:04}.png" for row in range(len(order))]
    notes = notes_of(heading, measured)
    report: dict[str, Any] = {
        "before": heading.before,
        "after": heading.after,
        "detector": heading.detector,
        "prompts": heading.prompts,
        "pairs": len(order),
        "figures": measured.figures,
        "worst": [files[row] for row in order[:IN_THE_SHEET]],
        "notes": notes,
        "left_out": [{"file": name, "reason": reason} for name, reason in heading.left_out],
    }
    with writing(out):
        if names is None:
            _write_images(workspace, out, measured, files)
        write_file(out / PAIRS, pairs_csv(measured, files).encode())
        write_file(out / PAGE, _page(workspace, heading, measured, files, notes).encode())
        write_file(out / SHEET, _sheet(workspace, heading, measured, files))
        write_file(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return report


def notes_of(heading: Heading, measured: MeasuredPairs) -> list[str]:
    """What a reader must know: the heading's notes, and what was not measured."""
    figures = measured.figures
    said = [figures["similarity"]["note"], figures["distances"]["note"]]
    for name, one in figures.items():
        if isinstance(one, dict) and one.get("unknown"):
            pairs = count_of(one["unknown"], "pair")
            said.append(f"{pairs} left out of {name}: the model gave no clear answer")
    return [*heading.notes, *(note for note in said if note)]


def pairs_csv(measured: MeasuredPairs, files: Sequence[str]) -> str:
    """One line per pair, worst first: its names, prompt and columns, and every measure of both images."""
    columns = list(dict.fromkeys(name for row in measured.columns for name in row))
    measures = list(MEASURES)
    header = ["file", "prompt", "seed", *columns]
    header += [f"{name}_{side}" for name in measured.sides for side in (BEFORE, AFTER)] + measures
    rows = []
    for row in measured.worst_first:
        pair, alike = measured.pairs[row], measured.similarity[row]
        values = [_number(side[row]) for sides in measured.sides.values() for side in sides]
        said = [measured.columns[row].get(name, "") for name in columns]
        rows.append(
            [files[row], pair.before.prompt, pair.before.seed, *said, *values]
            + [_number(alike[name]) for name in measures]
        )
    return as_csv(header, rows)


def figure_rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures with a value before and after, as lines of a table: their name, both values, and what
    changed with its interval and p-value."""
    rows = []
    for name, one in figures.items():
        if not isinstance(one, dict) or "before" not in one:
            continue
        by_ratio = "ratio" in one
        if by_ratio and one["ratio"] is None:
            rows.append(_undefined(name, one))
            continue
        change = one["ratio"] if by_ratio else one.get("difference", -one.get("drop", 0.0))
        low, high = one["interval"]
        if "drop" in one:
            low, high = -high, -low
        rows.append(
            {
                "name": LABELS.get(name, name),
                "before": _shown(one["before"]),
                "after": _shown(one["after"]),
                "change": f"× {change:.3f}" if by_ratio else f"{change:+.3f}",
                "interval": f"{low:.3f} to {high:.3f}" if by_ratio else f"{low:+.3f} to {high:+.3f}",
                "p": "" if one.get("p") is None else f"{one['p']:.3g}",
                "order": list(LABELS).index(name) if name in LABELS else len(LABELS),
            }
        )
    return sorted(rows, key=lambda row: row["order"])


def _undefined(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    values = {side: "–" if one[side] is None else _shown(one[side]) for side in ("before", "after")}
    order = list(LABELS).index(name) if name in LABELS else len(LABELS)
    return {"name": LABELS.get(name, name), **values, "change": "–", "interval": "–", "p": "", "order": order}


def similarity_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """PSNR, SSIM, LPIPS, FID and the like, as (name, text) of what was measured."""
    alike, far = figures["similarity"], figures["distances"]
    units = {"psnr": ("PSNR", ".1f", " dB"), "ssim": ("SSIM", ".3f", ""), "lpips": ("LPIPS", ".3f", "")}
    rows = [
        (label, f"{alike[name]['mean']:{form}}{unit} ({low:{form}} to {high:{form}})")
        for name, (label, form, unit) in units.items()
        if alike[name] is not None
        for low, high in [alike[name]["interval"]]
    ]
    if alike["identical"]:
        rows.append(("identical pairs", str(alike["identical"])))
    if "fid" in far:
        rows += [
            ("FID", f"{far['fid']:.3f}"),
            ("KID", f"{far['kid']:.5f} ± {far['kid_std']:.5f}"),
            ("precision, recall", f"{far['precision']:.3f}, {far['recall']:.3f}"),
            ("features", f"{far['network']}, {count_of(far['images'], 'image')}"),
        ]
    return rows


def category_tables(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each column of the prompt set, a table of the change of confidence and alignment by value."""
    shown = ("max_confidence", "mean_confidence", "alignment")
    tables = []
    for column, values in figures["by_column"].items():
        names = [name for name in shown if any("before" in one.get(name, {}) for one in values.values())]
        rows = []
        for value, one in values.items():
            cells = []
            for name in names:
                found = one[name]
                p = "" if found.get("p") is None else f", p {found['p']:.2g}"
                cells.append(
                    f"{_shown(found['before'])} → {_shown(found['after'])}{p}" if "before" in found else "–"
                )
            rows.append({"value": value, "prompts": one["prompts"], "cells": cells})
        tables.append({"column": column, "heads": [LABELS[name] for name in names], "rows": rows})
    return tables


def _page(
    workspace: Workspace,
    heading: Heading,
    measured: MeasuredPairs,
    files: Sequence[str],
    notes: Sequence[str],
) -> str:
    tiles = []
    for row in measured.worst_first[:MOST]:
        pair = measured.pairs[row]
        before, after = (read_pixels(workspace, image) for image in (pair.before, pair.after))
        maximum = measured.sides["max_confidence"]
        tiles.append(
            {
                "file": files[row],
                "prompt": "" if pair.before.prompt == files[row] else pair.before.prompt,
                "columns": ", ".join(measured.columns[row].values()),
                "before": embed(before, SIDE),
                "after": embed(after, SIDE),
                "confidence": [float(side[row]) for side in maximum],
                "worse": bool(maximum[1][row] > maximum[0][row]),
            }
        )
    return render_page(
        TEMPLATE,
        heading=heading,
        notes=notes,
        pairs=len(measured.pairs),
        figures=figure_rows(measured.figures),
        similarity=similarity_rows(measured.figures),
        tables=category_tables(measured.figures),
        tiles=tiles,
    )


def _sheet(workspace: Workspace, heading: Heading, measured: MeasuredPairs, files: Sequence[str]) -> bytes:
    """The worst pairs with the detector's maps, as a JPEG."""
    rows = []
    for row in measured.worst_first[:IN_THE_SHEET]:
        tiles = []
        for side, image in enumerate((measured.pairs[row].before, measured.pairs[row].after)):
            pixels, found = read_pixels(workspace, image), measured.predictions[side][row]
            seen = dequantise(workspace.maps.get(found.map_ref)) if found.map_ref else None
            tiles.append(Tile(image=pixels, text=image.prompt if side else f"{files[row]}: {found.max:.2f}"))
            tiles.append(Tile(image=pixels, confidence=seen, text=f"{found.max:.2f}" if side else ""))
        rows.append(tuple(tiles))
    gallery = Gallery(
        name="pairs",
        title="Before and after, worst first",
        lead=f"{heading.before} against {heading.after}; maps of {heading.detector}",
        columns=("before", "its map", "after", "its map"),
        rows=tuple(rows),
        repeat=2,
    )
    body = io.BytesIO()
    render_sheet(gallery).save(body, "JPEG", quality=QUALITY)
    return body.getvalue()


def _write_images(workspace: Workspace, out: Path, measured: MeasuredPairs, files: Sequence[str]) -> None:
    for pair, name in zip(measured.pairs, files, strict=True):
        for side in (BEFORE, AFTER):
            if not (out / side / name).is_file():
                image = getattr(pair, side)
                write_file(out / side / name, encode_png(read_pixels(workspace, image)), synced=False)


def _number(value: Any) -> Any:
    return "" if value is None or not np.isfinite(value) else round(float(value), 6)


def _shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
