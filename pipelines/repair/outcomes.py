"""What became of each image: a record that a resumed run reads, and a line of the report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dataengine.csv_files import as_csv
from dataengine.durable import make_folder, write_text
from dataengine.errors import InputRefused
from dataengine.records import count_of, digest
from pipelines.exchange.safe_files import path_inside

if TYPE_CHECKING:
    from dataengine.treatment.repair.repair import Outcome, Repair

RECORDS = ".repair"
"""Folder of the records in the output folder; hidden, so that an import skips it."""
COLUMNS = (
    *("file", "output", "state", "regions", "repaired", "verdicts", "peaks_before", "peaks_after"),
    *("seconds", "prompt", "reason"),
)

State = Literal["repaired", "unchanged", "refused"]


@dataclass(frozen=True, kw_only=True)
class RegionOutcome:
    """What became of one region."""

    verdict: str
    before: float
    """The detector's highest confidence in it, before and after."""
    after: float
    draw: int | None
    """Number of the candidate that was taken, from 0."""
    crop: tuple[int, int, int, int]
    """Top, left, bottom and right of what the generator saw, in pixels."""
    area: float
    """Share of the image."""


@dataclass(frozen=True, kw_only=True)
class ImageOutcome:
    """What became of one image."""

    file: str
    state: State
    output: str = ""
    """Name of the written file in the output folder; "" if none was."""
    sha256: str = ""
    """Hash of that file."""
    key: str = ""
    """Digest of the input and all settings; an equal one need not be repaired again."""
    regions: tuple[RegionOutcome, ...] = ()
    seconds: float = 0.0
    prompt: str = ""
    reason: str = ""
    """Why it was refused, or what else to know."""

    @property
    def gain(self) -> float:
        """By how much the highest confidence of its repaired regions fell."""
        return max((each.before - each.after for each in self.regions if each.draw is not None), default=0.0)

    def row(self) -> dict[str, Any]:
        """A line of the report."""
        return {
            "file": self.file,
            "output": self.output,
            "state": self.state,
            "regions": len(self.regions),
            "repaired": sum(each.draw is not None for each in self.regions),
            "verdicts": "; ".join(each.verdict for each in self.regions),
            "peaks_before": "; ".join(f"{each.before:.3f}" for each in self.regions),
            "peaks_after": "; ".join(f"{each.after:.3f}" for each in self.regions),
            "seconds": round(self.seconds, 2),
            "prompt": self.prompt,
            "reason": self.reason,
        }


def describe_regions(repair: "Repair") -> tuple[RegionOutcome, ...]:
    """The regions of a repair, as they are kept."""
    return tuple(map(_describe, repair.outcomes))


def _describe(outcome: "Outcome") -> RegionOutcome:
    crop = outcome.region.crop
    return RegionOutcome(
        verdict=outcome.verdict,
        before=float(outcome.region.peak),
        after=float(outcome.peak),
        draw=outcome.draw,
        crop=(crop.top, crop.left, crop.bottom, crop.right),
        area=float(outcome.region.mask.mean()),
    )


def count_states(outcomes: Sequence[ImageOutcome]) -> dict[str, int]:
    """Number of images of each state, and of their regions."""
    states = [each.state for each in outcomes]
    regions = [region for each in outcomes for region in each.regions]
    return {
        "repaired": states.count("repaired"),
        "unchanged": states.count("unchanged"),
        "refused": states.count("refused"),
        "regions": len(regions),
        "regions_repaired": sum(region.draw is not None for region in regions),
    }


def note_on_prompts(count: int) -> list[str]:
    """What to say of `count` images with artifacts that came without a prompt; nothing for none."""
    if not count:
        return []
    return [
        f"{count_of(count, 'image')} with artifacts came without a prompt, so an empty one was used: give one"
    ]


def report_csv(outcomes: Sequence[ImageOutcome]) -> str:
    """The report: one line for each image."""
    rows = (each.row() for each in outcomes)
    return as_csv(COLUMNS, ([row[column] for column in COLUMNS] for row in rows))


def write_record(out: Path, name: str, outcome: ImageOutcome) -> None:
    """Keep the outcome of the image that is called `name` in the output folder."""
    make_folder(out / RECORDS)
    write_text(_record(out, name), json.dumps(asdict(outcome)))


def read_record(out: Path, name: str) -> ImageOutcome | None:
    """The kept outcome; None if there is none that can be read."""
    try:
        stored = json.loads(_record(out, name).read_text())
        path_inside(out, stored["output"] or "none")
        regions = [RegionOutcome(**each | {"crop": tuple(each["crop"])}) for each in stored.pop("regions")]
        return ImageOutcome(**stored, regions=tuple(regions))
    except (OSError, ValueError, TypeError, KeyError, InputRefused):
        return None


def _record(out: Path, name: str) -> Path:
    return out / RECORDS / f"{digest(name)}.json"
