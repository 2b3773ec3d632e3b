"""The readable results of a treatment: sheets of pairs, the strip of looks, tables, and the sweep's table.

Input: stored rows of a run (`jobs.treat_generator`), images and maps of the workspace. Output: PIL images and
texts. Cost: milliseconds per tile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dataengine.csv_files import as_csv
from dataengine.images import decode
from dataengine.masks import dequantise
from pipelines.reports.contact_sheet import Gallery, Tile, render_sheet
from pipelines.runtime.images import read_pixels
from storage.workspace import Workspace

SHOWN = 24
"""Pairs on a sheet."""
COLUMNS = 12
"""Looks on a strip."""
SIDE = 192
PAIR_COLUMNS = (
    *("prompt", "seed", "mean_before", "mean_after", "max_before", "max_after"),
    *("psnr", "ssim", "lpips", "before", "after"),
)

Row = Mapping[str, Any]
"""A held-out pair: prompt, seed, ids of both images, confidences, PSNR, SSIM, LPIPS."""


def flawed_first(rows: Sequence[Row]) -> list[Row]:
    """The pairs by the confidence of their image before, the highest first."""
    return sorted(rows, key=lambda row: (-row["max_before"], row["prompt"], row["seed"]))


def worse_first(rows: Sequence[Row]) -> list[Row]:
    """The pairs whose mean confidence rose, the largest rise first."""
    worse = [row for row in rows if row["mean_after"] > row["mean_before"]]
    return sorted(worse, key=lambda row: (row["mean_before"] - row["mean_after"], row["prompt"], row["seed"]))


def pair_sheet(
    workspace: Workspace, detector_id: str, rows: Sequence[Row], title: str, lead: str
) -> Image.Image:
    """Images before and after with the detector's confidence below each other, in the order of the rows."""
    shown = list(rows)[:SHOWN]
    ids = [row[name] for row in shown for name in ("before", "after")]
    with workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.get_many(sorted(set(ids)))}
        predictions = {one.image_id: one for one in catalog.predictions.of(detector_id, ids)}

    def tiles(row: Row) -> tuple[Tile, ...]:
        before, after = (read_pixels(workspace, images[row[name]]) for name in ("before", "after"))
        maps = [
            dequantise(workspace.maps.get(predictions[row[name]].map_ref or ""))
            for name in ("before", "after")
        ]
        return (
            Tile(image=before, text=row["prompt"]),
            Tile(image=after, text=_similarity_text(row)),
            Tile(image=before, confidence=maps[0], text=_confidence_text(row, "before")),
            Tile(image=after, confidence=maps[1], text=_confidence_text(row, "after")),
        )

    gallery = Gallery(
        name="pairs",
        title=title,
        lead=lead,
        columns=("before", "after", "artifacts before", "artifacts after"),
        rows=tuple(tiles(row) for row in shown),
        repeat=2,
    )
    return render_sheet(gallery, SIDE)


def _confidence_text(row: Row, when: str) -> str:
    return f"mean {row[f'mean_{when}']:.4f}, max {row[f'max_{when}']:.2f}"


def _similarity_text(row: Row) -> str:
    if row["psnr"] is None:
        return f"seed {row['seed']}: the same image"
    parts = [f"PSNR {row['psnr']:.1f}"]
    parts += [f"SSIM {row['ssim']:.2f}"] if row["ssim"] is not None else []
    return ", ".join(parts + ([f"LPIPS {row['lpips']:.2f}"] if row["lpips"] is not None else []))


def look_strip(workspace: Workspace, kept_looks: Row, result: Row) -> Image.Image | None:
    """The same seeds over the updates, one row each; a look outside the guard's limits is framed and called
    collapse, the kept one is named. None if the run has no looks."""
    looks = list(kept_looks.get("looks", []))
    if not looks:
        return None
    breaches = {one["update"]: one["breaches"] for one in result.get("looks", []) if one["breaches"]}
    kept = result.get("kept")
    chosen = choose_looks([one["update"] for one in looks], kept, set(breaches))
    by_update = {one["update"]: one for one in looks}
    heads = tuple(_look_head(by_update[update], kept, update in breaches) for update in chosen)
    rows = tuple(
        tuple(
            Tile(
                image=decode(workspace.blobs.get(by_update[update]["images"][index])),
                text=prompt if number == 0 else "; ".join(breaches.get(update, ())),
                marked=update in breaches,
            )
            for number, update in enumerate(chosen)
        )
        for index, prompt in enumerate(kept_looks["prompts"])
    )
    collapsed = f"red frames: outside the guard's limits ({_first_breach(breaches)})" if breaches else ""
    lead = "; ".join(part for part in (f"stopped: {result.get('stopped', '')}", collapsed) if part)
    gallery = Gallery(
        name="strip", title="The same seeds over the updates", lead=lead, columns=heads, rows=rows
    )
    return render_sheet(gallery, SIDE)


def choose_looks(updates: Sequence[int], kept: int | None, marked: set[int]) -> list[int]:
    """At most `COLUMNS` of the looks: the first, the last, the kept one, the last of those marked, and others
    evenly between them."""
    needed = {updates[0], updates[-1], *sorted(marked & set(updates))[-3:]}
    if kept is not None and kept in updates:
        needed.add(kept)
    rest = [update for update in updates if update not in needed]
    room = max(0, COLUMNS - len(needed))
    if len(rest) > room:
        rest = [rest[round(index)] for index in np.linspace(0, len(rest) - 1, room)] if room else []
    return sorted({*needed, *rest})


def _look_head(look: Row, kept: int | None, collapsed: bool) -> str:
    name = "untreated" if look["update"] == 0 else f"update {look['update']}"
    mark = ", collapse" if collapsed else ", kept" if look["update"] == kept else ""
    return f"{name}{mark}: {look['mean_confidence']:.4f}"


def _first_breach(breaches: Mapping[int, Sequence[str]]) -> str:
    update = min(breaches)
    return f"first at update {update}: {'; '.join(breaches[update])}"


def strength_sheet(images: Mapping[float, np.ndarray], prompts: Sequence[str]) -> Image.Image:
    """Images uint8 NHWC of the same prompts and seeds by the LoRA's strength, one row per prompt."""
    strengths = sorted(images)
    rows = tuple(
        tuple(
            Tile(image=images[strength][index], text=prompt if strength == strengths[0] else "")
            for strength in strengths
        )
        for index, prompt in enumerate(prompts)
    )
    names = {0.0: "0: without it", 1.0: "1: as trained"}
    gallery = Gallery(
        name="strength",
        title="Strength of the LoRA",
        lead="the same prompts and seeds",
        columns=tuple(names.get(strength, f"{strength:g}") for strength in strengths),
        rows=rows,
    )
    return render_sheet(gallery, SIDE)


def pairs_csv(rows: Sequence[Row]) -> str:
    """Every pair, those that got worse first, then by the confidence before."""
    worse = worse_first(rows)
    others = [row for row in flawed_first(rows) if row not in worse]
    return as_csv(PAIR_COLUMNS, ([row[name] for name in PAIR_COLUMNS] for row in [*worse, *others]))


def looks_csv(looks: Sequence[Row]) -> str:
    """The guard's measurements by update, with what was outside its limits."""
    names = list(dict.fromkeys(name for look in looks for name in look["values"]))
    header = ("update", "mean_confidence", "max_confidence", *names, "breaches")
    body = (
        [
            *(look["update"], look["mean_confidence"], look["max_confidence"]),
            *(look["values"].get(name) for name in names),
            "; ".join(look["breaches"]),
        ]
        for look in looks
    )
    return as_csv(header, body)
