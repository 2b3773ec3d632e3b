"""The image files that a repair is given, with the names of what it writes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataengine.errors import ConfigRefused, InputRefused
from dataengine.records import digest
from pipelines.exchange.importer import Row
from pipelines.exchange.metadata import Refusal, displayable_name, same_name
from pipelines.exchange.readers.folders import read_folder


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One image to repair."""

    name: str
    """Its path as the person gave it."""
    row: Row
    path: Path
    stem: str
    """Path of its result below the output folder, without suffix."""


def find_inputs(paths: Sequence[Path], out: Path) -> tuple[list[InputFile], list[Refusal]]:
    """Every image at or below the paths, each once, and what was refused; what lies in `out` is no input.

    Raises `ConfigRefused` if `out` is one of the folders, or one of the files lies in it.
    """
    rows: dict[Path, tuple[str, Row]] = {}
    refused: list[Refusal] = []
    for path in paths:
        _refuse_overwriting(path, out)
        try:
            reading = read_folder(path)
        except (InputRefused, OSError) as error:
            refused.append(Refusal(displayable_name(str(path)), _reason(error)))
            continue
        shown, inside = path if path.is_dir() else path.parent, _below(path, out)
        for row in reading.rows:
            if not _lies_in(row.name, inside):
                place = shown / row.name if path.is_dir() else path
                rows.setdefault(place.absolute(), (displayable_name(str(place)), row))
        refused += [
            Refusal(displayable_name(str(shown / name)), reason)
            for name, reason in reading.refused
            if not _lies_in(name, inside)
        ]
    stems = name_results([(row.name, path) for path, (_, row) in rows.items()])
    inputs = [
        InputFile(name=name, row=row, path=path, stem=stems[path]) for path, (name, row) in rows.items()
    ]
    return inputs, refused


def name_results(named: Sequence[tuple[str, Path]]) -> dict[Path, str]:
    """A stem for the result of each input, by its path: its own name's.

    Where several inputs share one, also by case or composition of accents, as some file systems do, each
    stem ends with a digest of its input's path.
    """
    stems = {path: str(PurePosixPath(name).with_suffix("")) for name, path in named}
    counts = Counter(map(_folded, stems.values()))
    return {
        path: stem if counts[_folded(stem)] == 1 else f"{stem}-{digest(str(path), length=8)}"
        for path, stem in stems.items()
    }


def _folded(stem: str) -> str:
    return same_name(stem.casefold())


def _refuse_overwriting(path: Path, out: Path) -> None:
    target, given = out.resolve(), path.resolve()
    if given == target or given.is_relative_to(target):
        raise ConfigRefused(f"{path} lies in the output folder {out}; name another folder with --out")


def _below(root: Path, out: Path) -> str | None:
    """The output folder's name below `root`; None if it lies elsewhere."""
    target, folder = out.resolve(), root.resolve()
    return target.relative_to(folder).as_posix() if target.is_relative_to(folder) else None


def _lies_in(name: str, folder: str | None) -> bool:
    return folder is not None and name.startswith(f"{folder}/")


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
