"""Durable files, which survive a power cut.

A rename is atomic but not durable: after a power cut the name may be gone, or refer to an empty file. Code
that acknowledges work calls `move` (or `write_text`), which syncs the content, renames, and syncs the folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def move(source: Path, target: Path) -> None:
    """Rename a written file or folder to its final name, and return once content and name are on disk."""
    sync(source)
    source.replace(target)
    sync_folder(target.parent)


def replace(source: Path, target: Path) -> None:
    """Rename a file atomically without waiting for the disk: for results that can be made again, and whose
    hash is compared before they are taken as made."""
    source.replace(target)


def move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    """`move` several files that belong together; each folder is synced once."""
    pairs = list(moves)
    for source, _ in pairs:
        sync(source)
    for source, target in pairs:
        source.replace(target)
    for folder in {target.parent for _, target in pairs}:
        sync_folder(folder)


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically, by a temporary file next to it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically, by a temporary file next to it."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    move(draft, path)


def sync(path: Path) -> None:
    """Sync a file, or everything inside a folder, to disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder with its parents, and sync each name to disk; does nothing if it exists."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)
