"""What licences forbid, as far as their names say so, and what a model inherits from its training images."""

import re
from collections.abc import Iterable

UNSTATED = "unstated"
"""The licence of weights that come without one."""

FORBIDS = {
    "commercial use": re.compile(
        r"non-?_?\s?commercial|(?<![a-z])nc(?![a-z])|(research|academic|evaluation)[\s_-]+(use[\s_-]+)?only"
        r"|(research|academic)[\s_-]+purposes",
        re.IGNORECASE,
    ),
    "adapted works": re.compile(r"no-?_?\s?deriv|(?<![a-z])nd(?![a-z])", re.IGNORECASE),
    "any use without permission": re.compile(r"all rights reserved|proprietary", re.IGNORECASE),
}
"""What a licence may forbid that a trained model does, and the names by which such licences are known."""


def forbidden_by(licence: str) -> str:
    """What the licence forbids, in words, such as "commercial use"; "" for nothing that its name says."""
    return " and ".join(what for what, names in FORBIDS.items() if names.search(licence))


def inherited_licence(licence: str, of_images: Iterable[str]) -> str:
    """The licence of a model whose weights start under `licence`, trained on images under the others.

    Licences that forbid something are appended by name, each once; the others add nothing.
    """
    limiting = sorted({one for one in of_images if forbidden_by(one) and one not in licence})
    if not limiting:
        return licence
    trained_on = "trained on images under " + ", ".join(limiting)
    return f"{licence}; {trained_on}" if licence else trained_on
