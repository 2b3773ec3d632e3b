"""What a detector found in image files: a record of each, the report, the contact sheet and the gallery."""

import heapq
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Literal

import numpy as np
from PIL import Image as Picture

from dataengine.csv_files import as_csv
from dataengine.images import decode
from dataengine.masks import components, overlay_confidence, quantise
from dataengine.records import OperatingPoint
from pipelines.reports.contact_sheet import Gallery, Tile, render_sheet
from pipelines.reports.gallery import MOST, as_data_uri, render_page

TEMPLATE = Path(__file__).with_name("diagnosis.html")
COLUMNS = (
    *("file", "state", "confidence", "mean", "area", "regions"),
    *("width", "height", "map", "overlay", "reason"),
)
SHEET_TILES, SHEET_SIDE, SHEET_ACROSS = 60, 200, 6
"""Images of a contact sheet, the side of each in pixels, and how many stand in a row."""
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 480, 85
OVERLAY_QUALITY = 90

State = Literal["flagged", "clean", "refused"]


@dataclass(frozen=True, kw_only=True)
class FileDiagnosis:
    """What a detector found in one file."""

    file: str
    """Its path as the person gave it."""
    state: State
    """"refused" for a file without a map; such a file is not clean."""
    confidence: float | None = None
    """The highest of its map, in [0, 1]."""
    mean: float | None = None
    area: float | None = None
    """Share of its pixels from the component threshold on."""
    regions: int = 0
    """Connected components of these pixels that reach the image threshold."""
    width: int | None = None
    height: int | None = None
    map: str = ""
    """Names of the written files in the output folder."""
    overlay: str = ""
    reason: str = ""
    """Why it was refused, or what else to know."""


def describe_map(file: str, confidence: np.ndarray, point: OperatingPoint) -> FileDiagnosis:
    """The figures of a map, float32 HW in [0, 1]; flagged from the detector's operating point on."""
    peak = float(confidence.max())
    marked = confidence >= point.component
    regions = 0
    if peak >= point.flagged:
        numbers, count = components(marked)
        reached = np.zeros(count + 1, dtype=bool)
        reached[numbers[confidence >= point.flagged]] = True
        regions = int(reached.sum())
    return FileDiagnosis(
        file=file,
        state="flagged" if peak >= point.flagged else "clean",
        confidence=round(peak, 5),
        mean=round(float(confidence.mean()), 5),
        area=round(float(marked.mean()), 5),
        regions=regions,
        width=confidence.shape[1],
        height=confidence.shape[0],
    )


def by_confidence(found: Iterable[FileDiagnosis]) -> list[FileDiagnosis]:
    """The highest confidence first, refused files last."""
    return sorted(found, key=lambda each: (each.state == "refused", -(each.confidence or 0.0), each.file))


def count_states(found: Sequence[FileDiagnosis]) -> dict[str, int]:
    """Number of files of each state."""
    states = [each.state for each in found]
    return {state: states.count(state) for state in ("flagged", "clean", "refused")}


def report_csv(found: Iterable[FileDiagnosis]) -> str:
    """The report: one line for each file, the highest confidence first."""
    rows = map(asdict, by_confidence(found))
    return as_csv(COLUMNS, ([row[column] for column in COLUMNS] for row in rows))


@dataclass(frozen=True, kw_only=True)
class Done:
    """A diagnosed file with what tells whether it must be diagnosed again."""

    path: str
    key: str
    """Digest of its bytes, the detector and the settings."""
    hashes: dict[str, str]
    """Of its written files, by name."""
    found: FileDiagnosis


class Journal:
    """The records of an output folder: a line of JSON for each file, added when its results are written.

    A line that a power cut tore is left out, and its file is diagnosed again.
    """

    def __init__(self, path: Path) -> None:
        """Read the records; raises `OSError`."""
        self.done: dict[str, Done] = {}
        self._path = path
        self._file: IO[str] | None = None
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            if record := _parse(line):
                self.done[record.path] = record

    def add(self, record: Done) -> None:
        """Add a record; it survives the end of this process."""
        if self._file is None:
            # A torn last line must not swallow the next one.
            self._file = self._path.open("a")
            self._file.write("\n")
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()
        self.done[record.path] = record

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _parse(line: str) -> Done | None:
    try:
        stored = json.loads(line)
        found = FileDiagnosis(**stored.pop("found"))
        record = Done(**stored, found=found)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if isinstance(record.hashes, dict) and isinstance(record.path, str) else None


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """A diagnosed image and its overlay, small, as JPEG."""

    found: FileDiagnosis
    image: bytes
    overlay: bytes


def make_thumbnails(found: FileDiagnosis, pixels: np.ndarray, overlay: np.ndarray) -> Thumbnails:
    """Thumbnails of an image and its overlay, both uint8 HW3."""
    # By whole numbers, which is three times as fast as to an exact size.
    small = [
        Picture.fromarray(each).reduce(max(1, round(max(each.shape[:2]) / THUMBNAIL_SIDE)))
        for each in (pixels, overlay)
    ]
    image, heat = (encode_jpeg(each, THUMBNAIL_QUALITY) for each in small)
    return Thumbnails(found=found, image=image, overlay=heat)


def shrink(pixels: np.ndarray, side: int) -> Picture.Image:
    """The image, or map, at most `side` pixels long."""
    image = Picture.fromarray(pixels)
    image.thumbnail((side, side), Picture.Resampling.BOX, reducing_gap=2.0)
    return image


class Showcase:
    """Thumbnails of the images with the highest confidence, at most `MOST`; threads may share it."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, str, Thumbnails]] = []
        self._lock = Lock()

    def wants(self, found: FileDiagnosis) -> bool:
        """Whether the image is shown, as far as is known now."""
        with self._lock:
            return len(self._kept) < MOST or _rank(found) >= self._kept[0][:2]

    def has(self, found: FileDiagnosis) -> bool:
        """Whether its thumbnails are kept."""
        with self._lock:
            return any(found.map == name for _, name, _ in self._kept)

    def add(self, thumbnails: Thumbnails) -> None:
        """Keep it, instead of that with the lowest confidence."""
        with self._lock:
            heapq.heappush(self._kept, (*_rank(thumbnails.found), thumbnails))
            if len(self._kept) > MOST:
                heapq.heappop(self._kept)

    def shown(self) -> list[Thumbnails]:
        """The highest confidence first."""
        return [thumbnails for _, _, thumbnails in sorted(self._kept, key=lambda each: (-each[0], each[1]))]


def _rank(found: FileDiagnosis) -> tuple[float, str]:
    """By confidence, and by the name of its map, which is its own."""
    return found.confidence or 0.0, found.map


def render_contact_sheet(shown: Sequence[Thumbnails], title: str, lead: str) -> Picture.Image:
    """The first of the shown images with their maps as red heat; flagged ones are framed."""
    tiles = [
        Tile(
            image=decode(each.overlay),
            text=f"{each.found.confidence:.2f}  {Path(each.found.file).name}",
            marked=each.found.state == "flagged",
        )
        for each in shown[:SHEET_TILES]
    ]
    rows = tuple((tile,) for tile in tiles)
    gallery = Gallery(name="diagnosis", title=title, lead=lead, columns=("",), rows=rows, repeat=SHEET_ACROSS)
    return render_sheet(gallery, SHEET_SIDE)


def render_gallery(
    shown: Sequence[Thumbnails],
    found: Sequence[FileDiagnosis],
    detector: str,
    notes: Sequence[str],
) -> str:
    """The page: figures, notes, the images with the highest confidence, and the refused files."""
    refused = sorted((each for each in found if each.state == "refused"), key=lambda each: each.file)
    return render_page(
        TEMPLATE,
        tiles=[
            {
                "found": each.found,
                "name": Path(each.found.file).name,
                "image": as_data_uri(each.image, "image/jpeg"),
                "overlay": as_data_uri(each.overlay, "image/jpeg"),
            }
            for each in shown
        ],
        counts=count_states(found),
        detector=detector,
        notes=notes,
        hidden=max(0, len(found) - len(refused) - len(shown)),
        refused=refused[:MOST],
        left=max(0, len(refused) - MOST),
    )


def encode_map(confidence: np.ndarray, form: Literal["png", "npz"]) -> tuple[bytes, np.ndarray]:
    """A map, float32 HW in [0, 1], as a file: an 8-bit grey PNG, or `confidence` in an npz as it is; and the
    map in 8 bits."""
    stored = quantise(confidence)
    body = io.BytesIO()
    if form == "npz":
        np.savez_compressed(body, confidence=confidence)
    else:
        Picture.fromarray(stored).save(body, "PNG", compress_level=1)
    return body.getvalue(), stored


def draw_overlay(pixels: np.ndarray, stored: np.ndarray, side: int) -> np.ndarray:
    """The image, uint8 HW3, tinted where its map, uint8 HW, is high; at most `side` pixels long."""
    return overlay_confidence(np.asarray(shrink(pixels, side)), np.asarray(shrink(stored, side)))


def encode_jpeg(image: np.ndarray | Picture.Image, quality: int) -> bytes:
    """The image as a JPEG file."""
    body = io.BytesIO()
    picture = image if isinstance(image, Picture.Image) else Picture.fromarray(image)
    picture.save(body, "JPEG", quality=quality)
    return body.getvalue()
