"""Which file of a folder a task of Label Studio means.

A task names its picture by an address: of an upload (`/data/upload/7/3f2a9c1d-a.png`), of a local file
(`/data/local-files/?d=set/a%20b.png`), of a bucket (`s3://bucket/set/a.png`) or a web page. Nothing is
fetched; the file is looked for by its path, its shorter and shorter ends, its name in any
folder, and its name before the upload. Two addresses that fit one file in this way are ambiguous.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from dataengine.bounds import ARCHIVE_MEMBERS
from dataengine.errors import InputRefused
from pipelines.exchange.metadata import displayable_name, same_name

LOCAL_FILE = re.compile(r"[?&]d=(.*)", re.DOTALL)
QUERY = re.compile(r"[?#&].*", re.DOTALL)
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
DROPPED = re.compile(r"[^-\w.]")
"""What it leaves out of such a name, after spaces became underscores."""
MAX_ADDRESS = 4096


class Pictures:
    """The files below a folder, listed once. Raises `InputRefused` if there are too many."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self._paths: dict[str, str] = {}
        self._named: dict[str, list[str]] = {}
        self._stored: dict[str, list[str]] = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = (Path(folder) / name).relative_to(root).as_posix()
                self._paths[same_name(path)] = path
                self._named.setdefault(same_name(name), []).append(path)
                self._stored.setdefault(stored_name(name), []).append(path)
            if len(self._paths) > ARCHIVE_MEMBERS:
                raise InputRefused(
                    f"{root} has more than {ARCHIVE_MEMBERS} files; name the images' folder with --images"
                )

    def find(self, address: str) -> str | None:
        """The name, relative to the folder, of the file that an address means; None if there is none."""
        if len(address) > MAX_ADDRESS:
            return None
        return next(self._candidates(address), None)

    def _candidates(self, address: str) -> Iterator[str]:
        paths = [same_name(path) for path in paths_in(address)]
        for path in paths:
            parts = path.split("/")
            ends = ("/".join(parts[start:]) for start in range(len(parts)))
            yield from (self._paths[end] for end in ends if end in self._paths)
        # The same name in two folders, or two that are stored alike, would be a guess.
        for name in [path.rpartition("/")[2] for path in paths]:
            yield from _only(self._named.get(name, ()))
            if UPLOADED.match(name):
                yield from _only(self._stored.get(UPLOADED.sub("", name, count=1), ()))


def _only(files: Sequence[str]) -> Sequence[str]:
    return files if len(files) == 1 else ()


def stored_name(name: str) -> str:
    """The name under which Label Studio stores an uploaded file, without its prefix."""
    return DROPPED.sub("", same_name(name).strip().replace(" ", "_"))


def paths_in(address: str) -> list[str]:
    """The paths that an address may mean, as it stands first, then decoded."""
    bare = address.rpartition("://")[2]
    local = LOCAL_FILE.search(bare)
    whole = local.group(1) if local else bare
    found: dict[str, None] = {}
    for text in (whole, QUERY.sub("", whole)):
        for decoded in (text, unquote(text), unquote_plus(text)):
            for path in (decoded, decoded.replace("\\", "/")):
                found |= dict.fromkeys(_plain(path))
    return list(found)


def identity(address: str) -> str:
    """The picture of an address: equal for two addresses that differ in their query or encoding alone."""
    return displayable_name(paths_in(address)[-1]) if paths_in(address) else ""


def _plain(path: str) -> list[str]:
    """The path without empty parts, and below the last part that leads upward, if there is any of it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return ["/".join(parts)] if parts else []
