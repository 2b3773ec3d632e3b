"""Repair image files: what a detector finds is redrawn, and kept only where that is better.

Input: files and folders of images, which need not be in the catalog, and registered models. Output in a
folder: a PNG of each repaired image with a JSON sidecar that an import reads, a copy of every other one,
`report.csv`, and `gallery.html`. A file that cannot be used gets a line of the report. Cost: for each region
`draws` × `repeats` sampling runs; images that were already done with the same settings are skipped.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dataengine import durable
from dataengine.errors import ClinicError, ImageRefused, InputRefused
from dataengine.images import decode, decode_layers, encode_png
from dataengine.records import REPAIRED, digest
from pipelines.exchange.metadata import displayable_name
from pipelines.repair.gallery import Tile, choose_shown, make_tile, render_gallery
from pipelines.repair.models import Repairer, RepairModels, choose_models
from pipelines.repair.outcomes import (
    ImageOutcome,
    count_states,
    describe_regions,
    note_on_prompts,
    read_record,
    report_csv,
    write_record,
)
from pipelines.reports.inputs import InputFile, find_inputs
from pipelines.reports.output_files import holds, write_file, writing
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.selections.config import RepairRun

REPORT, GALLERY = "report.csv", "gallery.html"
UNPROMPTED = "it came without a prompt, so an empty one was used"
FLATTENED = "its transparency was laid on white"
SHOWN, NAMED = 20, 3
"""Refused files that the result names, and those that an error names; the report lists all."""


def repair_files(context: Context, run: RepairRun, paths: Sequence[Path], out: Path) -> Result:
    """Repair every image at or below `paths` into the folder `out`; returns counts.

    Raises `InputRefused` if not one image could be used, `ConfigRefused` for an output folder that holds the
    inputs, `NotFound` for unknown models, `WorkspaceUnusable` if `out` cannot be written.
    """
    models = choose_models(context, run)
    inputs, refused = find_inputs(paths, out)
    outcomes = [ImageOutcome(file=name, state="refused", reason=reason) for name, reason in refused]
    if not inputs:
        raise _nothing_to_repair(outcomes)
    with writing(out):
        durable.make_folder(out)
    work = _FileRepair(context, run, models, out)
    try:
        for number, file in enumerate(inputs):
            context.report(number, len(inputs), "repairing")
            outcomes.append(work.repair(file, number, len(inputs)))
    finally:
        with writing(out):
            durable.write_text(out / REPORT, report_csv(sorted(outcomes, key=lambda each: each.file)))
    counts = count_states(outcomes)
    if counts["refused"] == len(outcomes):
        raise _nothing_to_repair(outcomes)
    notes = [*models.notes, *note_on_prompts(sum(UNPROMPTED in each.reason for each in outcomes))]
    _write_gallery(context, out, inputs, outcomes, notes)
    refused_files = [f"{each.file}: {each.reason}" for each in outcomes if each.state == "refused"]
    return {
        "out": str(out),
        **counts,
        "known": work.known,
        **models.describe(),
        "notes": notes,
        "refused_files": refused_files[:SHOWN],
        "report": str(out / REPORT),
        "gallery": str(out / GALLERY),
    }


def _nothing_to_repair(outcomes: Sequence[ImageOutcome]) -> InputRefused:
    named = "; ".join(f"{each.file}: {each.reason}" for each in outcomes[:NAMED])
    more = f"; and {len(outcomes) - NAMED} more" if len(outcomes) > NAMED else ""
    return InputRefused(f"no image could be repaired: {named or 'there is none'}{more}")


class _FileRepair:
    """The work on one file after another."""

    def __init__(self, context: Context, run: RepairRun, models: RepairModels, out: Path) -> None:
        self._context, self._run, self._models, self._out = context, run, models, out
        self._repairer = Repairer(context, models, run)
        settings = run.model_dump_json(include={"repair", "sampling"}, exclude={"sampling": {"batch"}})
        self._settings = digest(settings, models.fingerprint())
        self.known = 0

    def repair(self, file: InputFile, number: int, total: int) -> ImageOutcome:
        """The outcome of one file, written to the output folder unless it is there already."""
        try:
            assert file.row.load
            data, note = file.row.load()
        except InputRefused as error:
            return ImageOutcome(file=file.name, state="refused", reason=str(error))
        hashed = sha256(data).hexdigest()
        prompt = note.prompt or self._catalog_prompt(hashed) or self._run.prompt
        begun = ImageOutcome(
            file=file.name,
            state="unchanged",
            key=digest(hashed, prompt, self._settings),
            prompt=prompt,
            reason=note.problem,
        )
        done = read_record(self._out, file.stem)
        if done is not None and done.key == begun.key and holds(self._out / done.output, done.sha256):
            self.known += 1
            return replace(done, file=file.name)
        try:
            pixels = decode(data)
            self._repairer.open()
            outcome = self._repaired(file, data, pixels, begun, (number, total))
            if done is not None:
                _remove_former(self._out, done, outcome)
            write_record(self._out, file.stem, outcome)
        except ImageRefused as error:
            return replace(begun, state="refused", reason=str(error))
        return outcome

    def _repaired(
        self, file: InputFile, data: bytes, pixels: np.ndarray, begun: ImageOutcome, place: tuple[int, int]
    ) -> ImageOutcome:
        start = time.monotonic()

        def report(*_: Any, **__: Any) -> None:
            self._context.report(*place, f"repairing {displayable_name(file.path.name)}")

        try:
            repair = self._repairer.repair(pixels, begun.prompt, report)
        except InputRefused as error:
            outcome = replace(begun, state="refused", reason=str(error))
            return self._write(outcome, file.stem + _suffix(file.path), data)
        outcome = replace(begun, regions=describe_regions(repair), seconds=round(time.monotonic() - start, 3))
        unprompted = self._models.reads_prompts and not begun.prompt and bool(repair.outcomes)
        transparent = repair.changed and _is_transparent(data)
        reasons = [begun.reason, FLATTENED * transparent, UNPROMPTED * unprompted]
        outcome = replace(outcome, reason="; ".join(filter(None, reasons)))
        if not repair.changed:
            return self._write(outcome, file.stem + _suffix(file.path), data)
        outcome = replace(outcome, state="repaired")
        settings = self._run.model_dump(mode="json", include={"repair", "sampling"})
        about = {
            "prompt": begun.prompt,
            "source": REPAIRED,
            "settings": {REPAIRED: {"of": sha256(data).hexdigest(), **self._models.describe(), **settings}},
        }
        body = json.dumps({name: value for name, value in about.items() if value}, indent=1) + "\n"
        return self._write(outcome, f"{file.stem}.png", encode_png(repair.pixels), body)

    def _write(self, outcome: ImageOutcome, name: str, data: bytes, about: str = "") -> ImageOutcome:
        path = self._out / name
        with writing(self._out):
            hashed = write_file(path, data)
            if about:
                durable.write_text(path.with_suffix(".json"), about)
        fail_point("repair:written")
        return replace(outcome, output=name, sha256=hashed)

    def _catalog_prompt(self, hashed: str) -> str:
        with self._context.workspace.catalog(read_only=True) as catalog:
            return next((each.prompt for each in catalog.images.find(sha256=hashed) if each.prompt), "")


def _suffix(path: Path) -> str:
    return displayable_name(path.suffix)


def _remove_former(out: Path, former: ImageOutcome, outcome: ImageOutcome) -> None:
    """Remove what an earlier run with other settings wrote for the same input, if it is unchanged since."""
    if former.output != outcome.output and holds(out / former.output, former.sha256):
        (out / former.output).unlink()
    if former.state == "repaired" != outcome.state:
        (out / former.output).with_suffix(".json").unlink(missing_ok=True)


def _is_transparent(data: bytes) -> bool:
    try:
        return decode_layers(data).alpha is not None
    except ImageRefused:
        return False


def _write_gallery(
    context: Context,
    out: Path,
    inputs: Sequence[InputFile],
    outcomes: Sequence[ImageOutcome],
    notes: Sequence[str],
) -> None:
    files = {each.name: each for each in inputs}
    tiles: list[Tile] = []
    shown = choose_shown(outcomes)
    for number, outcome in enumerate(shown):
        context.report(number, len(shown), "writing the gallery")
        try:
            tiles.append(make_tile(outcome, _before(files[outcome.file]), _after(out, outcome)))
        except (OSError, ClinicError):
            continue  # a file that went away meanwhile is listed in the report
    page = render_gallery(tiles, outcomes, count_states(outcomes), notes)
    with writing(out):
        durable.write_text(out / GALLERY, page)


def _before(file: InputFile) -> np.ndarray:
    assert file.row.load
    data: bytes
    data, _note = file.row.load()
    return decode(data)


def _after(out: Path, outcome: ImageOutcome) -> np.ndarray:
    return decode((out / outcome.output).read_bytes())
