"""Compare two folders of images, paired by file name.

Input: two folders, which need not be in the catalog, and a registered detector. Output: the measured pairs,
their names, and every file that could not be compared, with the reason. Images and predictions are kept in
the workspace, so that a run that was stopped goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath

from dataengine.errors import InputRefused
from dataengine.records import Image, threshold_of
from pipelines.config import MeasuresConfig
from pipelines.detectors.predict import predict
from pipelines.exchange.importer import Ingest, Reading, Row, import_reading
from pipelines.exchange.metadata import Refusal, same_name
from pipelines.exchange.readers.folders import read_folder
from pipelines.generators.comparison import Pair
from pipelines.generators.measures import MeasuredPairs, measure_pairs
from pipelines.jobs.treat_generator import BATCH
from pipelines.runtime.context import Context

NAMED = 3
"""Files that an error names."""
CATEGORY = "category"


@dataclass(frozen=True, kw_only=True)
class ComparedFiles:
    """Pairs of files that were measured, their names, and what was left out."""

    names: Sequence[str]
    """The file's path below the first folder, by pair."""
    measured: MeasuredPairs
    left_out: Sequence[Refusal]


def compare_files(
    context: Context, before: Path, after: Path, detector_id: str, measures: MeasuresConfig
) -> ComparedFiles:
    """Measure the images of both folders that bear the same name.

    Raises `InputRefused` where no pair is left, and for measures that need prompts where images bring none.
    """
    rows, left_out = pair_rows(before, after)
    images: list[dict[str, Image]] = []
    for side, folder in enumerate((before, after)):
        found, refused = _import_rows(context, [pair[side] for pair in rows.values()])
        left_out += [Refusal(f"{folder.name}/{name}", reason) for name, reason in refused]
        images.append(found)
    names, pairs = [], []
    for name, (one, other) in rows.items():
        first, second = images[0].get(one.name), images[1].get(other.name)
        if first is None or second is None:
            continue
        if (first.height, first.width) != (second.height, second.width):
            sizes = f"{first.height}×{first.width} before, {second.height}×{second.width} after"
            left_out.append(Refusal(name, f"{sizes}; pairs must have one size"))
            continue
        names.append(name)
        # Images without a prompt are each a unit of their own.
        prompt = first.prompt or second.prompt or name
        pairs.append(Pair(before=replace(first, prompt=prompt), after=replace(second, prompt=prompt)))
    left_out = sorted(set(left_out))
    if not pairs:
        raise InputRefused(no_pairs(before, after, left_out))
    if (measures.alignment or measures.scorers) and any(
        pair.before.prompt == name for name, pair in zip(names, pairs, strict=True)
    ):
        raise InputRefused(
            "alignment and scorers need the prompt of every image: in the file, in a .txt or .json file of "
            "the same name, or in metadata.csv"
        )
    with context.workspace.catalog(read_only=True) as catalog:
        threshold = threshold_of(catalog.detectors.get(detector_id))
    predictions = []
    for shown in ([pair.before for pair in pairs], [pair.after for pair in pairs]):
        once = list({image.id: image for image in shown}.values())
        by_image = {one.image_id: one for one in predict(context, detector_id, once, BATCH)}
        predictions.append([by_image[image.id] for image in shown])
    columns = [{CATEGORY: pair.before.category} if pair.before.category else {} for pair in pairs]
    both = predictions[0], predictions[1]
    measured = measure_pairs(context, pairs, both, threshold, measures, columns, drawn=False)
    return ComparedFiles(names=names, measured=measured, left_out=left_out)


def pair_rows(before: Path, after: Path) -> tuple[dict[str, tuple[Row, Row]], list[Refusal]]:
    """Files of the same path below both folders, whatever their suffix, by the first one's path; and files
    without a partner.

    Raises `InputRefused` for a path that is no folder.
    """
    readings = []
    for folder in (before, after):
        if not folder.is_dir():
            raise InputRefused(f"there is no folder at {folder}; give two folders of images")
        readings.append(read_folder(folder))
    named = [_by_key([row.name for row in reading.rows]) for reading in readings]
    rows = [{row.name: row for row in reading.rows} for reading in readings]
    left_out = [
        Refusal(f"{folder.name}/{name}", reason)
        for folder, reading in zip((before, after), readings, strict=True)
        for name, reason in reading.refused
    ]
    paired: dict[str, tuple[Row, Row]] = {}
    for key, name in named[0].items():
        if key in named[1]:
            paired[name] = rows[0][name], rows[1][named[1][key]]
    for folder, other, mine, theirs in (
        (before, after, named[0], named[1]),
        (after, before, named[1], named[0]),
    ):
        left_out += [
            Refusal(f"{folder.name}/{name}", f"no file of that name in {other.name}")
            for key, name in mine.items()
            if key not in theirs
        ]
    return paired, left_out


def no_pairs(before: Path, after: Path, left_out: Sequence[Refusal]) -> str:
    """One sentence that says why nothing could be compared."""
    named = "; ".join(f"{name}: {reason}" for name, reason in left_out[:NAMED])
    more = f"; and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    return (
        f"no image of {before} could be compared with one of {after}: "
        f"{named + more if named else 'there is none'}; pairs bear the same file name"
    )


def _by_key(names: Sequence[str]) -> dict[str, str]:
    """The names by what pairs them: the path without its suffix, or with it where a folder has several."""
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(same_name(str(PurePosixPath(name).with_suffix(""))), []).append(name)
    return {
        key if len(alike) == 1 else same_name(name): name for key, alike in stems.items() for name in alike
    }


def _import_rows(context: Context, rows: Sequence[Row]) -> tuple[dict[str, Image], list[Refusal]]:
    """The images of these rows in the workspace, by the row's name, and the rows that were refused."""
    reading = Reading(rows=rows, total=len(rows))
    refused = list(import_reading(context.workspace, reading, Ingest(), report=context.report).refused)
    hashes = {}
    for row in rows:
        assert row.load
        try:
            hashes[row.name] = sha256(row.load()[0]).hexdigest()
        except InputRefused:
            continue
    with context.workspace.catalog(read_only=True) as catalog:
        known: Mapping[str, Image] = {
            image.sha256: image for image in catalog.images.find(sha256=sorted(set(hashes.values())))
        }
    return {name: known[each] for name, each in hashes.items() if each in known}, refused
