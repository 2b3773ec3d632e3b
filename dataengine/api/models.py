"""The embedded clinic's models by name."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.clinic.config import FIRST_POINT
from dataengine.diagnosis.point_files import read_point
from dataengine.records import OperatingPoint

CLINIC_DETECTOR, DIFFDOCTOR = "clinic", "diffdoctor"
CLINIC_GENERATORS = {"clinic-flux": "flux", "clinic-sd": "stable_diffusion"}
"""Generators of the embedded clinic, with their bundled parts."""


@contextmanager
def materialised(part: str) -> Iterator[Path]:
    """The folder of one of the clinic's models while the block runs; what was opened from it stays open."""
    from dataengine.clinic.parts import materialise

    with tempfile.TemporaryDirectory(prefix="clinic-") as folder:
        yield materialise(part, Path(folder) / part)


def point_of(path: Path) -> OperatingPoint | None:
    """The operating point that a detector's files state, or that of the one that is shipped with the embedded
    clinic; None for others. Raises `ModelRefused` for one that is damaged."""
    from dataengine.clinic.parts import fingerprint, stamp_of

    if stated := read_point(path):
        return stated
    return FIRST_POINT if stamp_of(path) == fingerprint("first_doctor") else None
