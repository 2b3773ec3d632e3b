"""What a training on masks leaves for people: a card, curves and a contact sheet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as Picture

from dataengine.records import DetectorVersion, describe_point
from pipelines.reports.contact_sheet import Gallery, Tile, render_sheet
from pipelines.runtime.line_chart import Line, draw_line_chart

SHEET_SIDE = 220
SMOOTHED = 200
"""Points of a curve at most; each is a mean over neighbouring steps."""
FIGURES = {
    "pixel_ap": "average precision of pixels",
    "auroc": "AUROC of images",
    "miss": "flawed images missed",
    "false_alarm": "clean images flagged",
    "component_recall": "artifacts found",
    "component_precision": "marks that are artifacts",
    "mse": "mean squared error",
}
"""Figures of the card, by name; misses and false alarms are those at the operating point."""

CARD = """---
license: {licence_tag}
library_name: artifact-clinic
pipeline_tag: image-segmentation
tags: [artifact-detection, image-segmentation, artifact-clinic]
---
# {name}

Marks artifacts of generated images, with one confidence per pixel. Network: {architecture} at {size}²,
trained from {start}.

| data | images | with artifacts | clean |
|---|---|---|---|
{data}

Figures on the validation images, with 95 % intervals over images. They were held back from training, but the
operating point was chosen on them, so misses and false alarms are optimistic.

| figure | value | 95 % interval |
|---|---|---|
{figures}

It {point}.

Settings: {steps} updates of {batch} images at a learning rate of {lr:g}, seed {seed}; all of them are in
`training.json`.

Licence of the weights: {licence}.{limits}

    clinic diagnose FOLDER --detector THIS_FOLDER --out DIR

It was trained to find artifacts like those in its masks. On images of other generators, sizes or subjects,
measure it before you rely on it; an image that it does not flag is not known to be free of artifacts.
"""


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A validation image, uint8 HW3, with the detector's map, float32 HW, and its mask, bool HW."""

    name: str
    image: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray


def training_card(
    version: DetectorVersion, network: Mapping[str, Any], start: str, data: Mapping[str, Mapping[str, int]]
) -> str:
    """The detector's README, as Markdown. `data` counts images by set: "flawed" and "clean"."""
    figures = version.metrics.get("validation", {})
    architecture, encoder = str(network.get("architecture", "")), network.get("encoder", "")
    forbidden = version.metrics.get("training", {}).get("images_by_licence", {})
    limits = ", ".join(f"{count} under {name or 'an unstated licence'}" for name, count in forbidden.items())
    return CARD.format(
        name=_line(version.name),
        licence_tag=version.licence.lower() if re.fullmatch(r"[A-Za-z0-9.-]+", version.licence) else "other",
        licence=_line(version.licence) or "not recorded",
        limits=f" Training images: {limits}." if limits else "",
        architecture="SegFormer" if architecture == "segformer" else f"{architecture} on {encoder}",
        **{name: version.config.get(name, 0) for name in ("steps", "batch", "lr", "seed")},
        size=network.get("size", ""),
        start=_line(start),
        data="\n".join(
            f"| {name} | {sum(counts.values())} | {counts['flawed']} | {counts['clean']} |"
            for name, counts in data.items()
        ),
        figures="\n".join(_rows(figures)) or "| none: there were no validation images | – | – |",
        point=describe_point(version)["text"],
    )


def _rows(figures: Mapping[str, Any]) -> list[str]:
    operating = figures.get("operating", {})
    values = {**figures, **{name: operating.get(name) for name in ("miss", "false_alarm")}}
    intervals = {**figures.get("intervals", {}), **operating.get("intervals", {})}
    rows = []
    for name, words in FIGURES.items():
        if values.get(name) is None:
            continue
        low, high = intervals.get(name) or (None, None)
        span = "–" if low is None else f"{low:.3f} – {high:.3f}"
        rows.append(f"| {words} | {values[name]:.3f} | {span} |")
    return rows


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def render_curves(series: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    """Curves over the steps as SVG; each is smoothed to at most `SMOOTHED` points."""
    lines = [_smoothed(name, points) for name, points in series.items() if points]
    return draw_line_chart(lines, "step", title) if lines else ""


def _smoothed(name: str, points: Sequence[tuple[int, float]]) -> Line:
    parts = np.array_split(np.array(points, dtype=np.float64), min(SMOOTHED, len(points)))
    return Line(name, [float(part[-1, 0]) for part in parts], [float(part[:, 1].mean()) for part in parts])


def render_samples(samples: Sequence[ShownSample], title: str, lead: str) -> Picture.Image:
    """Each sample as image, map and mask, side by side."""
    rows = tuple(
        (
            Tile(image=each.image, text=each.name),
            Tile(image=each.image, confidence=each.confidence, text=f"highest {each.confidence.max():.2f}"),
            Tile(image=each.image, mask=each.mask, text="mask" if each.mask.any() else "clean"),
        )
        for each in samples
    )
    gallery = Gallery(
        name="validation", title=title, lead=lead, columns=("image", "map", "mask"), rows=rows, repeat=2
    )
    return render_sheet(gallery, SHEET_SIDE)
