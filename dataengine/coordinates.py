"""What the four numbers of a box mean: pixels, shares of the image or thousandths of it; x or y first.

No box shows it, so whoever reads one states it.
"""

from typing import NamedTuple

from dataengine.errors import ConfigRefused


class Coordinates(NamedTuple):
    """How the four numbers of a box are meant."""

    scale: float | None
    """What the image's side is called; None for pixels."""
    rows_first: bool
    """Whether the order is y, x, y, x."""


COORDINATES = {
    "pixels": Coordinates(None, False),
    "pixels-yx": Coordinates(None, True),
    "0-1": Coordinates(1.0, False),
    "0-1-yx": Coordinates(1.0, True),
    "0-1000": Coordinates(1000.0, False),
    "0-1000-yx": Coordinates(1000.0, True),
}
"""By name. `-yx` is the order [top, left, bottom, right], the others are [left, top, right, bottom]."""


def coordinates_named(name: str) -> Coordinates:
    """The coordinates of that name. Raises `ConfigRefused`."""
    if name not in COORDINATES:
        raise ConfigRefused(f"coordinates {name!r} are unknown; state one of {', '.join(COORDINATES)}")
    return COORDINATES[name]
