"""Inpaint: a generator regenerates the masked regions of a folder of images, outside a round.

Input: images and masks as `clinic import --format masks` reads and `clinic export --format masks` writes
them,
and an opened generator. Output: a PNG for each image in another folder, with a JSON sidecar of its metadata
that an import reads. Unmasked pixels are unchanged. All inputs are validated before anything is generated.
Cost: one sampling run for each image with a mask; images that were already made with the same inputs and
settings are skipped.
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
"""Number of images that an error message names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class InpaintRequest:
    """Settings of an inpainting run."""

    generator: str
    """The generator's name, stored with each image."""
    reads_prompts: bool
    sampling: SamplingConfig
    repeats: int = 1
    """See `dataengine.treatment.guided_sampling.inpainting.Inpainter`."""
    seed: int = 0
    prompt: str = ""
    """Prompt of images that bring none."""


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """An image and its mask."""

    pixels: np.ndarray
    """uint8 HWC."""
    missing: np.ndarray
    """bool HW: the pixels to regenerate."""
    note: Note
    sha256: str
    """Hash of the image file."""


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One validated image: its source, what to generate, and the metadata to store with it."""

    row: Row
    name: str
    """Name of the PNG, relative to the output folder."""
    size: tuple[int, int]
    prompt: str
    seed: int
    empty: bool
    about: dict[str, Any]

    def is_done(self, out: Path) -> bool:
        """Whether `out` has the result for this image, mask and settings."""
        path = out / self.name
        try:
            return path.is_file() and json.loads(path.with_suffix(".json").read_text()) == self.about
        except (OSError, ValueError):
            return False

    def write(self, out: Path, pixels: np.ndarray) -> None:
        """Write the image first and its metadata last: without metadata it counts as not done."""
        path = out / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))
        path.with_suffix(".json").write_text(json.dumps(self.about, indent=1) + "\n")


def inpaint_folder(
    open_generator: Callable[[], "GeneratorFamily"],
    options: ImportOptions,
    out: Path,
    asked: InpaintRequest,
    report: Report = no_report,
) -> Result:
    """Inpaint every image of the folder that `options` names, and write the results to `out`; returns counts.

    The generator is opened only if there is something to generate. Raises `InputRefused`, before anything is
    generated, for images without a mask, masks of another size or no masks at all, missing prompts, and sizes
    that the generator cannot make; `ConfigRefused` if `out` contains the images themselves.
    """
    with open_safely(options.path) as root:
        _refuse_overwriting(root, options, out)
        holes = _read_holes(ImportOptions(path=root, images=options.images), asked, report)
        left = [hole for hole in holes if not hole.is_done(out)]
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
        report(index, reading.total, "validating images and masks")
        try:
            hole = _hole(row, asked)
            if hole.name in holes:
                raise InputRefused("another image has the same name with a different extension")
            holes[hole.name] = hole
        except InputRefused as error:
            problems.append(f"{row.name}: {error}")
    if not holes and not problems:
        raise InputRefused(f"there is no image in {options.images or options.path / 'images'}")
    _refuse(problems)
    return list(holes.values())


def _hole(row: Row, asked: InpaintRequest) -> Hole:
    masked = _read_masked_image(row)
    missing, prompt = masked.missing, masked.note.prompt or asked.prompt
    if asked.reads_prompts and missing.any() and not prompt:
        raise InputRefused(
            "it has no prompt; give --prompt, or a table metadata.csv with the columns file_name and prompt"
        )
    seed = int(digest("inpaint", asked.seed, row.name, length=8), 16)
    sampling = asked.sampling.model_dump(mode="json", exclude={"batch"}, exclude_none=True)
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
            "settings": {
                "inpainted": {**sampling, "repeats": asked.repeats, "of": masked.sha256, "mask": mask}
            },
        },
    )


def _read_masked_image(row: Row) -> MaskedImage:
    """Read an image and the union of its masks. Raises `InputRefused`."""
    if row.load is None or row.answers is None:
        raise InputRefused(
            "it has no mask; put one of the same name into masks/, black where nothing changes"
        )
    data, note = row.load()
    pixels = decode(data)
    missing = np.zeros(pixels.shape[:2], bool)
    for answer in row.answers(*missing.shape):
        if answer.refused:
            raise InputRefused(answer.refused[0])
        if answer.label_map is not None:
            missing |= answer.label_map > 0
    return MaskedImage(pixels=pixels, missing=missing, note=note, sha256=sha256(data).hexdigest())


def _fill_holes(
    family: "GeneratorFamily", holes: Sequence[Hole], out: Path, asked: InpaintRequest, report: Report
) -> None:
    from dataengine.treatment.guided_sampling.inpainting import inpaint

    _refuse_sizes(family, holes)
    done = 0

    def report_step(*_: Any, **__: Any) -> None:
        report(done, len(holes), "generating")

    for batch in _batches_of_equal_size(holes, asked.sampling.batch):
        masked = [_read_masked_image(hole.row) for hole in batch]
        pixels, missing = np.stack([one.pixels for one in masked]), np.stack([one.missing for one in masked])
        prompts, seeds = [one.prompt for one in batch], [one.seed for one in batch]
        images = inpaint(family, pixels, missing, prompts, seeds, asked.sampling, asked.repeats, report_step)
        for hole, image in zip(batch, images, strict=True):
            hole.write(out, image)
        done += len(batch)
        report_step()


def _batches_of_equal_size(holes: Sequence[Hole], batch: int) -> Iterator[list[Hole]]:
    """Batches of images of equal size."""
    for _, holes_of_size in groupby(sorted(holes, key=lambda hole: hole.size), lambda hole: hole.size):
        group = list(holes_of_size)
        yield from (group[start:stop] for start, stop in shard_bounds(len(group), batch))


def _refuse_sizes(family: "GeneratorFamily", holes: Sequence[Hole]) -> None:
    step = family.multiple
    _refuse(
        [
            f"{hole.row.name}: it is {hole.size[1]}×{hole.size[0]} pixels, but {family.name} needs multiples "
            f"of {step}; crop it to {hole.size[1] // step * step}×{hole.size[0] // step * step}"
            for hole in holes
            if any(side % step for side in hole.size)
        ]
    )


def _refuse_overwriting(root: Path, options: ImportOptions, out: Path) -> None:
    inputs = [root, root / "images", root / "masks", *([options.images] if options.images else [])]
    if out.resolve() in [each.resolve() for each in inputs]:
        raise ConfigRefused(f"{out} contains the input images; name another folder for the output")


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InputRefused(f"nothing was generated: {'; '.join(problems[:NAMED])}{more}")
