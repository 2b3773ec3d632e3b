"""Files of an output folder: written by a temporary name and a rename, and known again by their hash."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from dataengine import durable
from dataengine.errors import ImageRefused, WorkspaceUnusable
from dataengine.records import digest

ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)
"""Errors of writing that concern one name alone."""


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Writing to the output folder. Raises `ImageRefused` where one name alone cannot be written, and
    `WorkspaceUnusable` where nothing can."""
    try:
        yield
    except OSError as error:
        problem = f"{out} cannot be written: {error.strerror}"
        if error.errno in ONE_FILE:
            raise ImageRefused(f"its result in {problem}; rename it") from error
        raise WorkspaceUnusable(f"{problem}; free space there, or name another folder with --out") from error


def write_file(path: Path, data: bytes, *, synced: bool = True) -> str:
    """Write a file of results, in its folder, and return its hash.

    Without `synced` a power cut may lose it: whoever resumes then compares the hash (`holds`). Raises
    `OSError`.
    """
    draft = path.with_name(f".{digest(path.name, length=12)}.part")
    if synced:
        durable.make_folder(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    draft.write_bytes(data)
    if synced:
        durable.move(draft, path)
    else:
        durable.replace(draft, path)
    return sha256(data).hexdigest()


def holds(path: Path, hashed: str) -> bool:
    """Whether the file is there with that hash."""
    try:
        return sha256(path.read_bytes()).hexdigest() == hashed
    except OSError:
        return False
