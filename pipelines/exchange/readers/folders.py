"""Import a plain folder of images, generated or real, at their native size.

Prompts, seeds and settings come from a table (`metadata.csv` or `metadata.jsonl` in the folder, or a given
file), or else from sidecars: `a.txt` (the prompt, or AUTOMATIC1111's text) or `a.json` (`prompt`, `seed`,
`category`, `licence`, `generator`, `settings`) next to `a.png`, or else from what AUTOMATIC1111 and ComfyUI
write into the file. Every file is added, a duplicate, or refused by name, without affecting others. Repeating
an import adds nothing, and an interrupted one resumes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dataengine.bounds import IMAGE_BYTES
from dataengine.errors import InputRefused
from dataengine.records import Report, Source, no_report
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportResult, Ingest, Reading, Row, import_reading
from pipelines.exchange.metadata import (
    SIDECARS,
    TABLE,
    TABLES,
    Note,
    Refusal,
    Table,
    displayable_name,
    read_embedded,
    read_plain,
    read_sidecar,
    read_table,
    same_name,
)
from storage.workspace import Workspace

MASKS_BESIDE = ("images", "masks")
OUR_EXPORT = ("labels.csv", "images/metadata.csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePath:
    """A file that may be an image; `name` is its path below the imported folder, with forward slashes."""

    name: str
    path: Path
    size: int


def import_folder(
    workspace: Workspace,
    path: str | Path,
    *,
    source: Source | None = None,
    licence: str = "",
    prompts: str | Path | None = None,
    generator_id: str | None = None,
    round_id: str | None = None,
    validation: float = 0.15,
    benchmark: float = 0.0,
    workers: int | None = None,
    report: Report = no_report,
) -> ImportResult:
    """Import every image below the folder `path`, or the single image `path`.

    `prompts` is a CSV with a column `file_name` (or `file`) and any of `prompt, seed, category, licence,
    generator`. `validation` and `benchmark` are the fractions of new groups assigned to these splits; known
    groups keep their split. `workers` threads decode (all cores by default). Links are never followed. Raises
    `InputRefused` if `path` does not exist or the table cannot be read, `WorkspaceUnusable` if the workspace
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
    """The images at or below `root`, with their metadata from a table or sidecars.

    Raises `InputRefused` if `root` does not exist or the table cannot be read.
    """
    if all((root / name).exists() for name in OUR_EXPORT):
        raise InputRefused(
            f"{root} is an export with labels, splits and sources; import it with --format masks"
        )
    if all((root / name).is_dir() for name in MASKS_BESIDE):
        raise InputRefused(
            f"{root} holds masks/ beside images/, and masks are no images; import it with --format masks, "
            "or give the folder images/ alone"
        )
    found, refused = find_image_files(root)
    table, unusable, unused = read_table(root, prompts)
    if prompts is None:
        for folder in sorted({each.path.parent for each in found} - {root, root.parent}):
            inner = _inner_table(root, folder)
            table |= inner.notes
            unusable += inner.refused
            unused += tuple(name for name in inner.unused if name not in unused)
    missing = sorted(table.keys() - {same_name(each.name) for each in found})
    refused += unusable
    refused += [
        Refusal(displayable_name(name), "named in the table, but not in the folder") for name in missing
    ]
    losses = Table({}, [], unused).losses
    return Reading(
        rows=[_row(each, table) for each in found], total=len(found), refused=refused, losses=losses
    )


def _inner_table(root: Path, folder: Path) -> Table:
    """The table beside images of a folder below `root`, as our exports have it, by their names from there."""
    if any((folder / name).is_symlink() for name in TABLES):
        return Table({}, [])
    place = displayable_name(folder.relative_to(root).as_posix())
    try:
        table, refused, unused = read_table(folder)
    except InputRefused as error:
        return Table({}, [Refusal(f"{place}/{TABLE}", str(error))])
    notes = {same_name(f"{place}/{name}"): note for name, note in table.items()}
    return Table(notes, [Refusal(f"{place}/{one.name}", one.reason) for one in refused], unused)


def read_images(options: ImportOptions) -> Reading:
    """`read_folder` for the import format "folder"."""
    return read_folder(options.path)


def find_image_files(root: Path) -> tuple[list[ImagePath], list[Refusal]]:
    """Every file at or below `root` that may be an image, by name, and refused files.

    Hidden files are skipped; links are refused, so that nothing outside of `root` is read.
    """
    if root.is_file():
        return [ImagePath(name=displayable_name(root.name), path=root, size=root.stat().st_size)], []
    if not root.is_dir():
        raise InputRefused(f"there is no folder or image at {root}; give the path of one")
    found: list[ImagePath] = []
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
        elif path.name not in TABLES and not (path.suffix == ".csv" and path.parent == root):
            found.append(ImagePath(name=name, path=path, size=entry.stat(follow_symlinks=False).st_size))
    described = {each.path.with_suffix("") for each in found}
    refused += [
        Refusal(
            displayable_name(path.relative_to(root).as_posix()), "there is no image of that name next to it"
        )
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


def _row(found: ImagePath, table: dict[str, Note]) -> Row:
    def load() -> tuple[bytes, Note]:
        data = read_plain(found.path, IMAGE_BYTES)
        beside = table.get(same_name(found.name)) or read_sidecar(found.path)
        if beside is None or beside.problem:
            # What a generator wrote into the file is second to what people say beside it.
            beside = replace(read_embedded(data) or Note(), problem=beside.problem if beside else "")
        return data, beside

    return Row(name=found.name, load=load, size=found.size, path=found.path)
