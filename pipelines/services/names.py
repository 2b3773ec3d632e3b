"""Names that people give to detectors, generators and runs."""

from dataengine.errors import InputRefused

LONGEST = 120


def plain_name(name: str) -> str:
    """The name without surrounding space. Raises `InputRefused` for an empty or overlong one, and for one
    with line breaks or other control characters."""
    name = name.strip()
    if not name or len(name) > LONGEST or not name.isprintable():
        raise InputRefused(f"{name[:40]!r} is no name; use 1 to {LONGEST} printable characters on one line")
    return name
