"""The embedded clinic's models by name."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLINIC_DETECTOR, DIFFDOCTOR = "clinic", "diffdoctor"
CLINIC_GENERATORS = {"clinic-flux": "flux", "clinic-sd": "stable_diffusion"}
"""Generators of the embedded clinic, with their bundled parts."""


@contextmanager
def materialised(part: str) -> Iterator[Path]:
    """The folder of one of the clinic's models while the block runs; what was opened from it stays open."""
    from dataengine.clinic.parts import materialise

    with tempfile.TemporaryDirectory(prefix="clinic-") as folder:
        yield materialise(part, Path(folder) / part)
