"""Charts: well-formed SVG whose points lie where their values say."""

import re
from xml.etree import ElementTree

from pipelines.runtime.line_chart import Line, draw_line_chart


def test_lines_lie_where_their_values_say_and_names_are_escaped() -> None:
    picture = draw_line_chart(
        [Line("a < b", [0.8, 0.2], [0.0, 1.0]), Line("other", [0.8, 0.2], [0.5, 0.5])], "x", "y", True
    )
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg") and "a &lt; b" in picture
    first, second = (
        [tuple(map(float, pair.split(","))) for pair in points.split()]
        for points in re.findall(r'points="([^"]+)"', picture)
    )
    assert first[0][0] < first[1][0], "high values stand to the left where the axis falls"
    assert first[0][1] > second[0][1] > first[1][1], "higher values lie higher"


def test_nothing_but_zeros_can_be_drawn() -> None:
    ElementTree.fromstring(draw_line_chart([Line("flat", [1.0], [0.0])], "x", "y"))
