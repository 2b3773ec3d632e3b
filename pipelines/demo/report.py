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
from pipelines.demo.contact_sheet import OUTLINE, Gallery, Tile, outline

MARKED_SIDE = 192


def page(data: dict[str, Any], galleries: Sequence[Gallery]) -> str:
    """The whole page. `data` as `pipelines.demo.run` writes it to `report.json`."""
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


STYLE = """
:root{--paper:#faf9f6;--card:#fff;--ink:#20222a;--faint:#6d7280;--line:#e5e3dc;--hot:#e63946;
--good:#0b8a6b;--cool:#3a6ea5}
@media (prefers-color-scheme:dark){:root{--paper:#14161b;--card:#1d2027;--ink:#e9e7e1;--faint:#9a9fac;
--line:#2e323c;--hot:#ff5d68;--good:#3cc79d;--cool:#7fb0e6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:48px 24px 72px}
h1{font-size:38px;line-height:1.12;letter-spacing:-.02em;margin:0 0 12px}
h2{font-size:22px;letter-spacing:-.01em;margin:0 0 4px}
section{margin-top:56px}
section>p,.lead{color:var(--faint);margin:0 0 18px;max-width:70ch}
.lead{font-size:18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:14px;margin-top:30px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.cards .card{display:flex;flex-direction:column;gap:2px}
.label,.note,.faint,.head,figcaption{color:var(--faint);font-size:13px}
.value{font-size:21px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.arrow{color:var(--faint);font-weight:400}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);
border-radius:12px;overflow:hidden}
td,th{padding:8px 12px;border-top:1px solid var(--line);text-align:left;vertical-align:top}
thead th{border-top:0;color:var(--faint);font-weight:500;font-size:13px}
tbody tr:first-child td{border-top:0}thead+tbody tr:first-child td{border-top:1px solid var(--line)}
code{color:var(--faint);font-size:12px}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.pill{border-radius:99px;padding:1px 10px;font-size:13px;white-space:nowrap}
.good{color:var(--good);border:1px solid var(--good)}.bad{color:var(--hot);border:1px solid var(--hot)}
.bar{position:relative;width:34%;min-width:120px}
.bar i{display:block;height:14px;margin-top:4px;border-radius:3px;background:var(--cool);min-width:2px}
.bar i.hot{background:var(--hot)}
.bar b{position:absolute;top:6px;bottom:6px;width:2px;background:var(--ink);opacity:.55;margin-left:12px}
.gallery{display:flex;flex-wrap:wrap;gap:14px}
.row{display:flex;gap:12px;padding:12px 14px}
figure{margin:0;width:107px}
.stack{position:relative;width:107px;height:107px;border-radius:6px;overflow:hidden;
background:var(--line);margin:3px 0}
.stack img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain}
.stack .over{transition:opacity .15s}
.stack:hover .over{opacity:0}
.marked{outline:3px solid var(--hot)}
figcaption{font-size:12px;line-height:1.35}
svg{width:100%;max-width:820px;background:var(--card);
border:1px solid var(--line);border-radius:12px;padding:10px}
svg text{fill:var(--faint);font-size:12px}
polyline{fill:none;stroke:var(--cool);stroke-width:2}
.grid{stroke:var(--line)}.kept{stroke:var(--ink);stroke-dasharray:3 4;opacity:.6}
.well{fill:var(--good)}.ill{fill:var(--hot)}
footer{margin-top:64px;color:var(--faint);font-size:13px}
summary{cursor:pointer}
"""
