"""Safe handling of untrusted names, archives and JSON: size limits, and no access outside their folder."""

import json
import os
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from dataengine.bounds import (
    ARCHIVE_ALWAYS,
    ARCHIVE_MEMBERS,
    ARCHIVE_RATIO,
    IMAGE_BYTES,
    JSON_BYTES,
    JSON_MEMORY,
    allowance,
    check_json,
)
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.metadata import Note, displayable_name, read_plain


def name_below(folder: Path, root: Path) -> str | None:
    """The folder's name below `root`, with forward slashes; None if it lies elsewhere."""
    target, top = folder.resolve(), root.resolve()
    return target.relative_to(top).as_posix() if target.is_relative_to(top) else None


def lies_in(name: str, folder: str | None) -> bool:
    """Whether the name of a file is one below that folder's name."""
    return folder is not None and name.startswith(f"{folder}/")


def path_inside(root: Path, name: str) -> Path:
    """The path of `name` (with forward slashes) below `root`. Raises `InputRefused` if it leads out of it."""
    pure = PurePosixPath(name)
    if not name or "\0" in name or pure.is_absolute() or ".." in pure.parts:
        raise InputRefused(
            f"the name {displayable_name(name)!r} leads out of its folder; such names are not followed"
        )
    path = root / pure
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise InputRefused(
                f"{displayable_name(name)!r} leads out of its folder by a link; links are not followed"
            )
    except (OSError, RuntimeError, ValueError):
        raise InputRefused(f"{displayable_name(name)!r} is not a usable file name") from None
    return path


def existing_inside(root: Path, name: str) -> Path | None:
    """The file `name` below `root`, also if its accents are composed otherwise; None if there is none.

    Raises `InputRefused` as `path_inside`.
    """
    spellings = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    paths = [path_inside(root, spelling) for spelling in spellings]
    return next((path for path in paths if os.path.exists(path)), None)  # noqa: PTH110 (never raises)


def read_inside(root: Path, name: str) -> tuple[bytes, Note]:
    """The bytes of an image below `root`, for `importer.Row.load`."""
    path = existing_inside(root, name)
    if path is None:
        raise InputRefused(f"there is no image {displayable_name(name)!r} in {root.name}/")
    return read_plain(path, IMAGE_BYTES), Note()


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """Read a JSON file of at most `limit` bytes. Raises `InputRefused` if it is not JSON in UTF-8, or would
    take far more memory than its size."""
    try:
        data = read_plain(path, limit)
        check_json(data, allowance(len(data), JSON_MEMORY), "its content")
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputRefused(f"{path.name} is not UTF-8 text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{path.name} is not valid JSON: {error}") from None
    except InputRefused as error:
        raise InputRefused(f"{path.name}: {error}") from None


def json_list(text: str) -> list[Any] | None:
    """The JSON list in a cell of a table; None for anything else, and for what would take far more memory
    than its length."""
    data = text.encode()
    try:
        check_json(data, allowance(len(data), JSON_MEMORY), "its content")
        found = json.loads(text)
    except (ValueError, RecursionError, InputRefused):
        return None
    return found if isinstance(found, list) else None


@contextmanager
def open_safely(path: Path) -> Iterator[Path]:
    """The folder or file itself; a `.zip` is unpacked to a temporary folder for the block.

    Raises `InputRefused` before anything is unpacked if a member is a link, leads out of the folder, or is
    duplicated, or if the archive would unpack to more than `ARCHIVE_RATIO` times its size; and while
    unpacking if its declared sizes are wrong.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="clinic-zip-"))
    try:
        _unpack(path, folder)
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(("__MACOSX", "."))]
        yield entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(path: Path, folder: Path) -> None:
    allowed = max(ARCHIVE_ALWAYS, ARCHIVE_RATIO * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, allowed, folder)
            for member in members:
                name = _member_name(member)
                if name.endswith("/"):
                    continue
                target = path_inside(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    while part := source.read(1 << 20):
                        allowed -= len(part)
                        if allowed < 0:
                            raise InputRefused(f"{path.name} unpacks to far more than it declares; refused")
                        file.write(part)
    except InputRefused:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise InputRefused(f"the archive {path.name} cannot be read: {said}") from None
    except Exception as error:  # decompressors may raise anything on malicious bytes
        raise InputRefused(f"the archive {path.name} is damaged: {reason_of(error)}") from None


def _member_name(member: zipfile.ZipInfo) -> str:
    """The member's name with forward slashes; Windows PowerShell 5 and others write backslashes."""
    return member.filename.replace("\\", "/")


def _check_members(members: list[zipfile.ZipInfo], allowed: int, folder: Path) -> None:
    if len(members) > ARCHIVE_MEMBERS:
        raise InputRefused(f"the archive has {len(members)} members; at most {ARCHIVE_MEMBERS} are read")
    total = sum(member.file_size for member in members)
    if total > allowed:
        raise InputRefused(
            f"the archive would unpack to {total} bytes, more than {ARCHIVE_RATIO} times its size; "
            "unpack it yourself if you trust it, and import the folder"
        )
    names = set()
    for member in members:
        name = _member_name(member)
        path_inside(folder, name)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputRefused(f"the archive contains a link, {displayable_name(name)!r}; links are not read")
        key = os.path.normcase(name.rstrip("/"))
        if key in names:
            raise InputRefused(f"the archive contains {displayable_name(name)!r} twice; remove one of them")
        names.add(key)
