"""Line charts as standalone SVG, readable on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#c2410c", "#0284c7", "#15803d", "#a21caf", "#a16207", "#64748b")
WIDTH, LEFT, RIGHT, BOTTOM, PLOT = 560, 64, 16, 48, 228
ROW = 16
"""Height of a line's name in the legend above the plot."""
INK = "#808080"
"""Medium grey, readable on light and dark pages."""
TICKS = 5


@dataclass(frozen=True)
class Line:
    """A named line; `x` and `y` have equal length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_line_chart(lines: Sequence[Line], x_title: str, y_title: str, falling: bool = False) -> str:
    """The lines with axes and legend; `falling` reverses the horizontal axis, from high to low."""
    across = [value for line in lines for value in line.x]
    low, high = min(across), max(across)
    start, end = (high, low) if falling else (low, high)
    top = max((value for line in lines for value in line.y), default=0) or 1.0
    inner_width, above = WIDTH - LEFT - RIGHT, ROW * (len(lines) + 1)
    height = above + PLOT + BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - start) / (end - start) if end != start else 0.5
        return LEFT + inner_width * share, above + PLOT * (1 - y / top)

    shapes = [f'<path d="M{LEFT} {above}V{above + PLOT}H{LEFT + inner_width}" fill="none" stroke="{INK}"/>']
    for tick in range(TICKS):
        part = tick / (TICKS - 1)
        x, y = LEFT + inner_width * part, above + PLOT * (1 - part)
        along = start + (end - start) * part
        shapes.append(_text(x, above + PLOT + 16, f"{along:.3g}", anchor="middle"))
        shapes.append(_text(LEFT - 6, y + 4, f"{top * part:.2g}", anchor="end"))
    for row, (line, colour) in enumerate(zip(lines, _colours(len(lines)), strict=True)):
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        shapes.append(_text(LEFT + inner_width, ROW * (row + 1), line.name, colour, "end"))
    shapes.append(_text(LEFT + inner_width / 2, height - 10, x_title, anchor="middle"))
    shapes.append(
        f'<text transform="translate(14 {above + PLOT / 2}) rotate(-90)" text-anchor="middle" '
        f'fill="{INK}">{escape(y_title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(y_title)} {escape(x_title)}" font-family="sans-serif" font-size="12">'
        f"{''.join(shapes)}</svg>\n"
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[row % len(COLOURS)] for row in range(count)]


def _text(x: float, y: float, text: str, colour: str = INK, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
