"""Import a plain folder of pictures, generated or real, at their native size.

Prompts, seeds and settings come from a table (`metadata.csv` in the folder, or one that is named) or from
sidecars: `a.txt` (the prompt) or `a.json` (`prompt`, `seed`, `category`, `licence`, `generator`, `settings`)
beside `a.png`. Every file is added, known already, or refused by name, and the rest goes on. The same import
again adds nothing, and one that was stopped goes on where it was.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.images import MAX_BYTES
from dataengine.records import Report, Source, no_report
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportResult, Ingest, Reading, Row, import_reading
from pipelines.exchange.metadata import (
    SIDECARS,
    Note,
    Refusal,
    displayable_name,
    read_plain,
    read_sidecar,
    read_table,
)
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFile:
    """A file that may be a picture; `name` is its path below the imported folder, with forward slashes."""

    name: str
    path: Path
    size: int


def import_folder(
    workspace: Workspace,
    path: str | Path,
    *,
    source: Source = "generated",
    licence: str = "",
    prompts: str | Path | None = None,
    generator_id: str | None = None,
    round_id: str | None = None,
    validation: float = 0.15,
    benchmark: float = 0.0,
    workers: int | None = None,
    report: Report = no_report,
) -> ImportResult:
    """Import every picture under the folder `path`, or the one picture that `path` is.

    `prompts` is a CSV with a column `file_name` (or `file`) and any of `prompt, seed, category, licence,
    generator`. The split of a new group is drawn with the shares `validation` and `benchmark`; a known group
    keeps its own. `workers` threads decode (all cores by default). Links are never followed. Raises
    `InputRefused` if nothing lies at `path` or the table cannot be read, `WorkspaceUnusable` if the workspace
    is full or read-only.
    """
    ingest = Ingest(
        source=source,
        licence=licence,
        generator_id=generator_id,
        round_id=round_id,
        validation=validation,
        benchmark=benchmark,
    )
    reading = read_folder(Path(path), Path(prompts) if prompts else None)
    return import_reading(workspace, reading, ingest, workers=workers, report=report)


def read_folder(root: Path, prompts: Path | None = None) -> Reading:
    """The pictures at or below `root`, with what a table or sidecars say of them.

    Raises `InputRefused` if nothing lies there or the table cannot be read.
    """
    found, refused = find_pictures(root)
    table, unusable = read_table(root, prompts)
    absent = sorted(table.keys() - {each.name for each in found})
    refused += unusable
    refused += [
        Refusal(displayable_name(name), "named in the table, but not in the folder") for name in absent
    ]
    return Reading(rows=[_row(each, table) for each in found], total=len(found), refused=refused)


def read_images(options: ImportOptions) -> Reading:
    """`read_folder` of what was asked for."""
    return read_folder(options.path)


def find_pictures(root: Path) -> tuple[list[PictureFile], list[Refusal]]:
    """Every file at or below `root` that may be a picture, by name, and what cannot be one.

    Hidden files are passed over; links are refused, so nothing outside of `root` is ever read.
    """
    if root.is_file():
        return [PictureFile(name=displayable_name(root.name), path=root, size=root.stat().st_size)], []
    if not root.is_dir():
        raise InputRefused(f"there is no folder or picture at {root}; give the path of one")
    found: list[PictureFile] = []
    notes: list[Path] = []
    refused: list[Refusal] = []
    for entry in _entries(root):
        path = Path(entry.path)
        name = displayable_name(path.relative_to(root).as_posix())
        if entry.is_symlink():
            refused.append(Refusal(name, "a link; links are not followed, copy the file itself"))
        elif not entry.is_file(follow_symlinks=False):
            refused.append(Refusal(name, "not a plain file"))
        elif path.suffix in SIDECARS:
            notes.append(path)
        elif not (path.suffix == ".csv" and path.parent == root):
            found.append(PictureFile(name=name, path=path, size=entry.stat(follow_symlinks=False).st_size))
    described = {each.path.with_suffix("") for each in found}
    refused += [
        Refusal(displayable_name(path.relative_to(root).as_posix()), "no picture of that name lies beside it")
        for path in notes
        if path.with_suffix("") not in described
    ]
    return sorted(found, key=lambda each: each.name), sorted(refused)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))
            else:
                yield entry


def _row(found: PictureFile, table: dict[str, Note]) -> Row:
    def load() -> tuple[bytes, Note]:
        data = read_plain(found.path, MAX_BYTES)
        return data, table.get(found.name) or read_sidecar(found.path) or Note()

    return Row(name=found.name, load=load, size=found.size)
