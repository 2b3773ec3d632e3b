"""The report of a round as one HTML page that needs nothing else: figures, charts, pictures with maps and
marks.

Input: the report's data (JSON) and galleries of tiles. Output: HTML text. Light and dark by the reader's
setting; no script. Everything that comes from outside is escaped.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from dataengine.masks import PALETTE
from pipelines.report_style import STYLE
from pipelines.sheets import OUTLINE, Gallery, Tile, outline

MARKED_SIDE = 192


def page(data: dict[str, Any], galleries: Sequence[Gallery]) -> str:
    """The whole page. `data` as `pipelines.demo` writes it to `report.json`."""
    shown = {gallery.name: gallery_html(gallery) for gallery in galleries}
    parts = [
        _header(data),
        _cards(data["cards"]),
        _section(
            "The figures", _figures(data["figures"]), "What was asked of this round, and what came out."
        ),
        _section("The round", _timeline(data["stages"]), "Every stage, what it found, and how long it took."),
        shown.pop("survey", ""),
        _section("Where it breaks", _categories(data["categories"]), data["categories_lead"]),
        shown.pop("labels", ""),
        shown.pop("detectors", ""),
        _section("The treatment", _curve(data["treatment"]), data["treatment_lead"]),
        *shown.values(),
        _details(data),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(data["title"])}</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )


def gallery_html(gallery: Gallery) -> str:
    """A gallery as a section: a card for each row, a figure for each tile."""
    cards = "".join(
        '<div class="card row">'
        + "".join(_tile(tile, head) for tile, head in zip(row, gallery.columns, strict=True))
        + "</div>"
        for row in gallery.rows
    )
    return _section(gallery.title, f'<div class="gallery">{cards}</div>', gallery.lead)


def _tile(tile: Tile, head: str) -> str:
    layers = f'<img src="{data_uri(tile.image)}" alt="{escape(tile.text or head)}">'
    if tile.confidence is not None:
        layers += f'<img class="over" src="{data_uri(heat(tile.confidence))}" alt="">'
    if tile.mask is not None:
        layers += f'<img class="over" src="{data_uri(edge(tile.mask))}" alt="">'
    mark = " marked" if tile.marked else ""
    title = f'<span class="head">{escape(head)}</span>' if head else ""
    return (
        f'<figure>{title}<div class="stack{mark}">{layers}</div>'
        f"<figcaption>{escape(tile.text)}</figcaption></figure>"
    )


def heat(confidence: np.ndarray) -> np.ndarray:
    """Confidence float HW in [0, 1] as uint8 RGBA: red, the more opaque the surer, clear below 0.05."""
    layer = np.zeros((*confidence.shape, 4), np.uint8)
    layer[..., :3] = PALETTE[0]
    layer[..., 3] = np.where(confidence < 0.05, 0, np.clip(confidence, 0, 1) * 190).astype(np.uint8)
    return layer


def edge(mask: np.ndarray) -> np.ndarray:
    """The outline of a bool HW mask as uint8 RGBA, drawn at three times its size so that it stays thin."""
    large = mask.repeat(3, 0).repeat(3, 1)
    layer = np.zeros((*large.shape, 4), np.uint8)
    layer[outline(large, width=2)] = (*OUTLINE, 255)
    return layer


def data_uri(pixels: np.ndarray) -> str:
    """A uint8 image, HWC with 3 or 4 channels, as the text of a PNG data address."""
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(body.getvalue()).decode()


def number(value: float | bool | None) -> str:
    """A figure as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _header(data: dict[str, Any]) -> str:
    return f'<header><h1>{escape(data["title"])}</h1><p class="lead">{escape(data["lead"])}</p></header>'


def _cards(cards: Sequence[dict[str, Any]]) -> str:
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span class="label">{escape(card["label"])}</span>'
            f'<span class="value">{escape(card["before"])}<span class="arrow"> → </span>'
            f"{escape(card['after'])}</span>"
            f'<span class="note">{escape(card["note"])}</span></div>'
            for card in cards
        )
        + "</div>"
    )


def _section(title: str, body: str, lead: str = "") -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(lead)}</p>{body}</section>"


def _figures(figures: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(figure['title'])}<br><code>{escape(figure['id'])}</code></td>"
        f'<td class="number">{number(figure["value"])}</td><td class="number faint">{_interval(figure)}</td>'
        f'<td class="number">{escape(figure["goal"])}</td><td>{_verdict(figure["met"])}</td>'
        f'<td class="faint">{escape(figure.get("note", ""))}</td></tr>'
        for figure in figures
    )
    heads = "".join(f"<th>{head}</th>" for head in ("figure", "value", "95 % interval", "goal", "", "note"))
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _interval(figure: dict[str, Any]) -> str:
    interval = figure.get("interval")
    return f"{number(interval[0])} – {number(interval[1])}" if interval else ""


def _verdict(met: bool | None) -> str:
    if met is None:
        return ""
    return '<span class="pill good">met</span>' if met else '<span class="pill bad">missed</span>'


def _timeline(stages: Sequence[dict[str, Any]]) -> str:
    longest = max((stage["seconds"] for stage in stages), default=1.0) or 1.0
    rows = "".join(
        f'<tr><td>{escape(stage["title"])}</td><td class="number">{stage["seconds"]:.1f} s</td>'
        f'<td class="bar"><i style="width:{100 * stage["seconds"] / longest:.1f}%"></i></td>'
        f'<td class="faint">{escape(stage["found"])}</td></tr>'
        for stage in stages
    )
    return f'<div class="wide"><table class="timeline"><tbody>{rows}</tbody></table></div>'


def _categories(categories: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(each["category"])}</td><td class="number">{each["images"]}</td>'
        f'<td class="bar"><i class="{"hot" if each["hard"] else ""}" '
        f'style="width:{100 * each["statistic"]:.1f}%"></i>'
        f'<b style="left:{100 * min(each["limit"], 1):.1f}%"></b></td>'
        f'<td class="number">{each["statistic"]:.2f}</td>'
        f"<td>{'hard' if each['hard'] else ''}</td></tr>"
        for each in categories
    )
    return f'<div class="wide"><table class="timeline"><tbody>{rows}</tbody></table></div>'


def _curve(treatment: dict[str, Any]) -> str:
    """Mean confidence over the updates, and the guard's looks with the kept one."""
    points: list[tuple[float, float]] = [(p["update"], p["confidence"]) for p in treatment["history"]]
    if len(points) < 2:
        return ""
    last, top = points[-1][0] or 1, max(value for _, value in points) * 1.08 or 1

    def place(update: float, value: float) -> tuple[float, float]:
        return 58 + 628 * update / last, 190 - 170 * value / top

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    kept = place(treatment["kept"], 0)[0]
    ticks = "".join(
        f'<text x="{place(0, v)[0] - 8:.0f}" y="{place(0, v)[1] + 4:.0f}" text-anchor="end">{v:.3g}</text>'
        f'<line class="grid" x1="58" x2="686" y1="{place(0, v)[1]:.1f}" y2="{place(0, v)[1]:.1f}"/>'
        for v in (0, top / 2.16, top / 1.08)
    )
    looks = "".join(
        f'<circle cx="{place(look["update"], look["confidence"])[0]:.1f}" '
        f'cy="{place(look["update"], look["confidence"])[1]:.1f}" r="5" '
        f'class="{"well" if look["well"] else "ill"}"><title>{escape(look["text"])}</title></circle>'
        for look in treatment["looks"]
    )
    return (
        '<div class="wide"><svg viewBox="0 0 720 226" role="img" aria-label="confidence over updates">'
        f'{ticks}<line class="kept" x1="{kept:.1f}" x2="{kept:.1f}" y1="12" y2="190"/>'
        f'<text x="{kept - 6:.1f}" y="22" text-anchor="end">kept</text><polyline points="{line}"/>{looks}'
        '<text x="58" y="212">0</text>'
        f'<text x="686" y="212" text-anchor="end">{last:.0f} updates</text></svg></div>'
    )


def _details(data: dict[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in data["made_with"])
    return f"<footer><details><summary>How this was made</summary><ul>{lines}</ul></details></footer>"
