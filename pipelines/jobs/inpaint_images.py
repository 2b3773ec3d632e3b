"""Inpaint: a generator draws anew what masks mark in a folder of pictures, outside a round.

Input: pictures and masks as `clinic import --format masks` reads and `clinic export --format masks` writes
them, and an opened generator. Output: a PNG for each picture in another folder, with a JSON file beside it
that says how it was made and that an import understands. Unmarked pixels keep their bytes. Everything is
looked at before anything is drawn. Cost: one sampling run for each picture with a mark; what lies there as it
was asked for is skipped.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ConfigRefused, InputRefused
from dataengine.images import decode, encode_png
from dataengine.records import Report, digest, no_report
from dataengine.treatment.config import SamplingConfig
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Row
from pipelines.exchange.metadata import Note
from pipelines.exchange.readers.mask_folders import read_masks
from pipelines.exchange.safe_files import open_safely
from pipelines.runtime.context import Result
from pipelines.runtime.shards import shard_bounds

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily


NAMED = 3
"""So many pictures are named in a refusal; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class InpaintRequest:
    """How holes are drawn."""

    generator: str
    """The generator's name, which is kept with each picture."""
    reads_prompts: bool
    sampling: SamplingConfig
    repeats: int = 1
    """See `dataengine.treatment.guided_sampling.inpainting.Inpainter`."""
    seed: int = 0
    prompt: str = ""
    """For pictures that bring none."""


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """A picture and its mask."""

    pixels: np.ndarray
    """uint8 HWC."""
    missing: np.ndarray
    """bool HW: what is drawn."""
    note: Note
    sha256: str
    """Of the picture's file."""


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One picture that was looked at: where it comes from, what is drawn, and what is kept with it."""

    row: Row
    name: str
    """Of the PNG, below the folder that is written."""
    size: tuple[int, int]
    prompt: str
    seed: int
    empty: bool
    about: dict[str, Any]

    def lies_in(self, out: Path) -> bool:
        """Whether it was drawn there, of this picture and mask and in this way."""
        picture = out / self.name
        try:
            return picture.is_file() and json.loads(picture.with_suffix(".json").read_text()) == self.about
        except (OSError, ValueError):
            return False

    def write(self, out: Path, pixels: np.ndarray) -> None:
        """The picture first: while what is said of it is missing, it counts as not drawn."""
        picture = out / self.name
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(encode_png(pixels))
        picture.with_suffix(".json").write_text(json.dumps(self.about, indent=1) + "\n")


def inpaint_folder(
    open_generator: Callable[[], "GeneratorFamily"],
    options: ImportOptions,
    out: Path,
    asked: InpaintRequest,
    report: Report = no_report,
) -> Result:
    """Draw every hole of the folder that `options` names into `out`; how many there were.

    The generator is opened once there is something for it to draw. Raises `InputRefused`, before anything is
    drawn, for pictures without a mask, masks of another size or no masks at all, prompts that are missing,
    sizes that the generator does not draw, and when `out` holds the pictures themselves.
    """
    with open_safely(options.path) as root:
        _refuse_overwriting(root, options, out)
        holes = _read_holes(ImportOptions(path=root, images=options.images), asked, report)
        left = [hole for hole in holes if not hole.lies_in(out)]
        marked = [hole for hole in left if not hole.empty]
        if marked:
            _fill_holes(open_generator(), marked, out, asked, report)
        for hole in left:
            if hole.empty:
                hole.write(out, _read_masked_image(hole.row).pixels)
    return {
        "out": str(out),
        "drawn": len(marked),
        "unmarked": len(left) - len(marked),
        "there": len(holes) - len(left),
    }


def _read_holes(options: ImportOptions, asked: InpaintRequest, report: Report) -> list[Hole]:
    reading = read_masks(options)
    problems = [f"{name}: {reason}" for name, reason in reading.refused]
    holes: dict[str, Hole] = {}
    for index, row in enumerate(reading.rows):
        report(index, reading.total, "looking at pictures and masks")
        try:
            hole = _hole(row, asked)
            if hole.name in holes:
                raise InputRefused("another picture has the same name but for its ending")
            holes[hole.name] = hole
        except InputRefused as error:
            problems.append(f"{row.name}: {error}")
    if not holes and not problems:
        raise InputRefused(f"there is no picture in {options.images or options.path / 'images'}")
    _refuse(problems)
    return list(holes.values())


def _hole(row: Row, asked: InpaintRequest) -> Hole:
    found = _read_masked_image(row)
    missing, prompt = found.missing, found.note.prompt or asked.prompt
    if asked.reads_prompts and missing.any() and not prompt:
        raise InputRefused(
            "nothing says what it shows; give --prompt, or a table metadata.csv with file_name and prompt"
        )
    seed = int(digest("inpaint", asked.seed, row.name, length=8), 16)
    how = asked.sampling.model_dump(mode="json", exclude={"batch"}, exclude_none=True)
    mask = sha256(np.packbits(missing).tobytes()).hexdigest()
    return Hole(
        row=row,
        name=str(Path(row.name).with_suffix(".png")),
        size=missing.shape,
        prompt=prompt,
        seed=seed,
        empty=not missing.any(),
        about={
            "prompt": prompt,
            "seed": seed,
            "generator": asked.generator,
            "settings": {"inpainted": {**how, "repeats": asked.repeats, "of": found.sha256, "mask": mask}},
        },
    )


def _read_masked_image(row: Row) -> MaskedImage:
    """Several masks of a picture count together. Raises `InputRefused`."""
    if row.load is None or row.answers is None:
        raise InputRefused("it has no mask; one of the same name belongs into masks/, black where nothing is")
    data, note = row.load()
    pixels = decode(data)
    missing = np.zeros(pixels.shape[:2], bool)
    for answer in row.answers(*missing.shape):
        if answer.label_map is not None:
            missing |= answer.label_map > 0
    return MaskedImage(pixels=pixels, missing=missing, note=note, sha256=sha256(data).hexdigest())


def _fill_holes(
    family: "GeneratorFamily", holes: Sequence[Hole], out: Path, asked: InpaintRequest, report: Report
) -> None:
    from dataengine.treatment.guided_sampling.inpainting import inpaint as draw

    _refuse_sizes(family, holes)
    done = 0

    def moving(*_: Any, **__: Any) -> None:
        report(done, len(holes), "drawing")

    for batch in _batches_of_equal_size(holes, asked.sampling.batch):
        found = [_read_masked_image(hole.row) for hole in batch]
        pixels, missing = np.stack([one.pixels for one in found]), np.stack([one.missing for one in found])
        prompts, seeds = [one.prompt for one in batch], [one.seed for one in batch]
        made = draw(family, pixels, missing, prompts, seeds, asked.sampling, asked.repeats, moving)
        for hole, each in zip(batch, made, strict=True):
            hole.write(out, each)
        done += len(batch)
        moving()


def _batches_of_equal_size(holes: Sequence[Hole], batch: int) -> Iterator[list[Hole]]:
    """Batches of pictures of equal size."""
    for _, found in groupby(sorted(holes, key=lambda hole: hole.size), lambda hole: hole.size):
        group = list(found)
        yield from (group[start:stop] for start, stop in shard_bounds(len(group), batch))


def _refuse_sizes(family: "GeneratorFamily", holes: Sequence[Hole]) -> None:
    step = family.multiple
    _refuse(
        [
            f"{hole.row.name}: it is {hole.size[1]}×{hole.size[0]} pixels, and {family.name} draws multiples "
            f"of {step}; crop it to {hole.size[1] // step * step}×{hole.size[0] // step * step}"
            for hole in holes
            if any(side % step for side in hole.size)
        ]
    )


def _refuse_overwriting(root: Path, options: ImportOptions, out: Path) -> None:
    taken = [root, root / "images", root / "masks", *([options.images] if options.images else [])]
    if out.resolve() in [each.resolve() for each in taken]:
        raise ConfigRefused(f"{out} holds the pictures themselves; name another folder for what is drawn")


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InputRefused(f"nothing was drawn: {'; '.join(problems[:NAMED])}{more}")
