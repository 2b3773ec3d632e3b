"""Paths in the catalog: relative to the workspace, or to a folder that an admin registered by name.

    workspace:models/tiny-flux      in the workspace's own folder
    folder:big%20disk/sdxl          in the folder that is registered as "big disk"

A workspace can therefore be moved or restored elsewhere. Records hold this machine's paths: the column types
`Located` and `LocatedJson` of `storage.tables.columns` translate them on every write and read. Anything else,
such as a hub id, a URL or a path outside all of these folders, is stored as it is.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

WORKSPACE, FOLDER = "workspace:", "folder:"

_PATH = re.compile(r"(?P<prefix>(?:[a-z][a-z0-9]*:)?)(?P<path>/(?!/)[^\0\n]*)")
"""An absolute path, maybe after the kind of a model, such as "clip:"."""
_STORED = re.compile(
    rf"(?P<prefix>(?:[a-z][a-z0-9]*:)?)(?P<base>{WORKSPACE}|{FOLDER}(?P<name>[^/\s]+)/?)(?P<path>(?![/\s])[^\0\n]*)"
)


def no_folders() -> Mapping[str, str]:
    """No registered folder."""
    return {}


@dataclass(frozen=True)
class Places:
    """The folders of this machine to which paths in the catalog are relative.

    `folders` returns the registered folders by name; it is called only for a path outside the workspace. On a
    team's machine the workspace's folder is a cache of that machine alone (`shared`), so a path in it is
    stored as it is.
    """

    root: Path
    folders: Callable[[], Mapping[str, str]] = no_folders
    shared: bool = False

    def stored(self, text: str) -> str:
        """The form in which the catalog stores a path of this machine; any other text is unchanged."""
        found = _PATH.fullmatch(text) if "/" in text else None
        if found is None:
            return text
        path = os.path.normpath(found["path"])
        roots = () if self.shared else (str(self.root), str(self.root.resolve()))
        for root in dict.fromkeys(roots):
            if (inner := _below(path, root)) is not None:
                return f"{found['prefix']}{WORKSPACE}{inner}"
        for name, folder in self.folders().items():
            if (inner := _below(path, folder)) is not None:
                return f"{found['prefix']}{FOLDER}{quote(name, safe='')}/{inner}"
        return text

    def resolved(self, text: str) -> str:
        """The path on this machine; unchanged if the folder's name is not registered."""
        found = _STORED.fullmatch(text) if WORKSPACE in text or FOLDER in text else None
        if found is None or ".." in found["path"].split("/"):
            return text
        if found["base"] == WORKSPACE:
            root: str | None = str(self.root)
        else:
            root = self.folders().get(unquote(found["name"]))
        if root is None:
            return text
        return f"{found['prefix']}{Path(root) / found['path']}"


def unregistered_folder(location: str) -> str | None:
    """The name of the folder in a location that could not be resolved; None for any other location."""
    found = _STORED.fullmatch(location)
    return unquote(found["name"]) if found is not None and found["name"] else None


def every_text(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with `change` applied to each text in it; its keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: every_text(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [every_text(each, change) for each in value]
    return value


def _below(path: str, folder: str) -> str | None:
    """The path relative to the folder; None if it lies elsewhere."""
    folder = folder.rstrip("/")
    if path == folder:
        return ""
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None
