"""Diagnosis of many images as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

from dataengine.api.detector import Detector, chunks
from dataengine.api.inputs import Images, named_images
from dataengine.api.progress import progress_bar
from dataengine.errors import ImageRefused

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("file", "mean", "max", "flagged", "refused")


def diagnose(
    images: Images, detector: Detector | str | Path = "clinic", *, batch: int = 16, progress: bool = False
) -> "pd.DataFrame":
    """Diagnose images: a table with one row for each, in their order.

    Columns: `file` (path, or position of an array), `mean` and `max` confidence in [0, 1], `flagged` (whether
    the maximum reaches the detector's operating point), and `refused`, the reason why a file could not be
    used; its other cells are then missing, and the rest goes on. At most `batch` images are in memory.

    Raises `InputRefused` when there is no image, `ModelRefused` for a detector that does not load.
    """
    import pandas as pd

    named = named_images(images)
    opened = detector if isinstance(detector, Detector) else Detector.load(detector)
    rows: list[tuple[object, ...]] = []
    with progress_bar(progress) as report:
        for chunk in chunks(named, batch):
            decoded = [(each, pixels) for each, pixels in chunk if not isinstance(pixels, ImageRefused)]
            rows += [
                (each.name, None, None, None, str(why))
                for each, why in chunk
                if isinstance(why, ImageRefused)
            ]
            maps = opened.maps([pixels for _, pixels in decoded], batch) if decoded else []
            for (each, _), map_ in zip(decoded, maps, strict=True):
                highest = float(map_.max())
                flagged = highest >= opened.operating_point.flagged
                rows.append((each.name, float(map_.mean()), highest, flagged, ""))
            report(len(rows), len(named), "diagnosing")
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"mean": "float64", "max": "float64", "flagged": "boolean"})
