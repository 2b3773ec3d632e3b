"""The output folder of a command, and the workspace that the command keeps its state in."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.bounds import read_config
from dataengine.errors import ClinicError, InputRefused, WorkspaceUnusable
from storage.workspace import Workspace

HIDDEN = ".clinic"
"""In the output folder: what the command was called with, and its own workspace."""
REQUEST = "request.json"


def begin_output(out: Path, command: str, settings: dict[str, Any]) -> None:
    """Create the output folder, or recognise the one that the same command with the same settings began.

    `settings` is everything that the result depends on, as JSON. Raises `InputRefused` for a folder that
    holds anything else, so that nothing is overwritten, and `WorkspaceUnusable` where it cannot be written.
    """
    request = json.loads(json.dumps({"command": command, "settings": settings}, sort_keys=True))
    known = _request_of(out)
    if known == request:
        return
    if known is not None:
        changed = _changed(known, request)
        raise InputRefused(
            f"{out} holds the output of another call ({changed}); nothing was overwritten. Name another "
            "folder with --out, or repeat that call to resume it"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputRefused(
            f"{out} holds something already; nothing was overwritten. Name a new or empty folder with --out"
        )
    try:
        durable.make_folder(out / HIDDEN)
        durable.write_text(out / HIDDEN / REQUEST, json.dumps(request, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkspaceUnusable(f"{out} cannot be written: {error.strerror}; name another folder") from error


@contextmanager
def begun_output(out: Path, command: str, settings: dict[str, Any]) -> Iterator[None]:
    """`begin_output`, for the part of a command that checks what it was asked for: if that is refused, a
    folder that was begun here is taken back, so that the corrected call may name it again."""
    existed, resumed = out.exists(), _request_of(out) is not None
    begin_output(out, command, settings)
    try:
        yield
    except (ClinicError, ValueError):
        if not resumed:
            shutil.rmtree(out / HIDDEN)
            if not existed:
                out.rmdir()
        raise


@contextmanager
def output_workspace(out: Path, workspace: Path | None = None) -> Iterator[Workspace]:
    """The named workspace, or the output folder's own, created where there is none.

    State that lets an interrupted call resume is kept there: images, checkpoints, results. The folder's own
    workspace is a single machine's, also where the environment names a team's database or blobs.
    """
    from storage.opening import create_workspace

    opened = create_workspace(workspace) if workspace else create_workspace(out / HIDDEN, "", "")
    try:
        yield opened
    finally:
        opened.close()


def _request_of(out: Path) -> dict[str, Any] | None:
    file = out / HIDDEN / REQUEST
    try:
        found = read_config(file) if file.is_file() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() == {"command", "settings"} else None


def _changed(known: dict[str, Any], request: dict[str, Any]) -> str:
    if known["command"] != request["command"]:
        return f"of `clinic {known['command']}`"
    before, now = known["settings"], request["settings"]
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    return f"other {', '.join(names)}"
