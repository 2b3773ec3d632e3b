"""The operating point of a detector folder, so that it flags alike wherever the folder goes."""

import json
from dataclasses import asdict
from pathlib import Path

from dataengine import durable
from dataengine.bounds import read_config
from dataengine.errors import ModelRefused
from dataengine.records import OperatingPoint

POINT_FILE = "operating_point.json"


def write_point(folder: Path, point: OperatingPoint) -> None:
    """Write the operating point beside the detector's weights."""
    durable.write_text(folder / POINT_FILE, json.dumps(asdict(point), indent=1) + "\n")


def read_point(path: Path) -> OperatingPoint | None:
    """The operating point of a detector's folder; None for a file, and where none is stated.

    Raises `ModelRefused` for one that is damaged.
    """
    file = path / POINT_FILE
    if not file.is_file():
        return None
    try:
        stored = read_config(file)
        interval = stored.get("interval")
        point = OperatingPoint(**stored | {"interval": tuple(interval) if interval else None})
        if 0 <= point.component <= point.flagged <= 1:
            return point
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{file} is no operating point: {error}; remove it to flag from 0.5") from error
    raise ModelRefused(f"{file} is no operating point: expected 0 <= component <= flagged <= 1; remove it")
