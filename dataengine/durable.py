"""Files that survive a power cut.

A rename is atomic, but on its own it promises nothing about the disk: after a power cut the name may be gone,
or stand for an empty file. Whoever acknowledges work calls `move` (or `write_text`): contents first, then
the name, then the folder that holds the name.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def move(source: Path, target: Path) -> None:
    """Rename a written file or folder to its final name, and return once both are on the disk."""
    sync(source)
    source.replace(target)
    sync_folder(target.parent)


def move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    """`move` for several files that belong together; each folder is waited for once."""
    pairs = list(moves)
    for source, _ in pairs:
        sync(source)
    for source, target in pairs:
        source.replace(target)
    for folder in {target.parent for _, target in pairs}:
        sync_folder(folder)


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one piece, by a temporary name beside it."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text)
    move(draft, path)


def sync(path: Path) -> None:
    """Wait until a file, or everything inside a folder, is on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, each name on the disk; nothing where it exists."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)
