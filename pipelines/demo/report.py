"""The report of a round as one self-contained HTML page: figures, charts, images, maps, masks.

Input: the report's data (JSON) and galleries of tiles. Output: HTML text, from the template
`report.html`. Follows the reader's light or dark colour scheme; no script. Every value is escaped.
"""

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, Template
from PIL import Image

from dataengine.masks import PALETTE
from pipelines.reports.contact_sheet import OUTLINE, Gallery, outline

TEMPLATE = Path(__file__).with_name("report.html")


def render_page(data: dict[str, Any], galleries: Sequence[Gallery]) -> str:
    """Render the page. `data` as `pipelines.demo.run` writes it to `report.json`."""
    longest = max((stage["seconds"] for stage in data["stages"]), default=0.0) or 1.0
    return template().render(
        data=data, galleries=galleries, longest=longest, curve=chart_curve(data["treatment"])
    )


@cache
def template() -> Template:
    """The page's template, which escapes every value."""
    environment = Environment(autoescape=True)
    environment.filters |= {
        "data_uri": data_uri,
        "edge": edge,
        "heat": heat,
        "number": format_figure,
        "percent": lambda share: f"{100 * share:.1f}%",
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def heat(confidence: np.ndarray) -> np.ndarray:
    """Confidence float HW in [0, 1] as uint8 RGBA: red, opacity by confidence, transparent below 0.05."""
    layer = np.zeros((*confidence.shape, 4), np.uint8)
    layer[..., :3] = PALETTE[0]
    layer[..., 3] = np.where(confidence < 0.05, 0, np.clip(confidence, 0, 1) * 190).astype(np.uint8)
    return layer


def edge(mask: np.ndarray) -> np.ndarray:
    """The outline of a bool HW mask as uint8 RGBA, at three times its size so that the line stays thin."""
    large = mask.repeat(3, 0).repeat(3, 1)
    layer = np.zeros((*large.shape, 4), np.uint8)
    layer[outline(large, width=2)] = (*OUTLINE, 255)
    return layer


def data_uri(pixels: np.ndarray) -> str:
    """A uint8 image, HWC with 3 or 4 channels, as a PNG data URI."""
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(body.getvalue()).decode()


def format_figure(value: float | bool | None, unit: str = "") -> str:
    """Format a figure for display, with its unit where that is one of measure."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} s" if unit == "s" else text


def chart_curve(treatment: dict[str, Any]) -> dict[str, Any] | None:
    """Mean confidence over the updates as coordinates in a chart of 720 × 226, with the guard's checks and
    the kept update; None for fewer than two updates.
    """
    points: list[tuple[float, float]] = [(p["update"], p["confidence"]) for p in treatment["history"]]
    if len(points) < 2:
        return None
    last, top = points[-1][0] or 1, max(value for _, value in points) * 1.08 or 1

    def x(update: float) -> float:
        return round(58 + 628 * update / last, 1)

    def y(value: float) -> float:
        return round(190 - 170 * value / top, 1)

    return {
        "last": last,
        "kept": x(treatment["kept"]),
        "line": " ".join(f"{x(update)},{y(value)}" for update, value in points),
        "ticks": [{"value": value, "y": y(value)} for value in (0, top / 2.16, top / 1.08)],
        "looks": [
            {"x": x(look["update"]), "y": y(look["confidence"]), "well": look["well"], "text": look["text"]}
            for look in treatment["looks"]
        ],
    }
