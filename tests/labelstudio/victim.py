"""A push or pull that is killed: `python -m tests.labelstudio.victim URL TOKEN WORKSPACE PROJECT POINT`.

POINT is `push` or `pull`, a place, and which visit to it is the last, such as `push:after add_tasks:2`. The
process kills itself there by SIGKILL, so that nothing of it is tidied up.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines.exchange.label_studio import pull, push
from pipelines.exchange.label_studio.server import Server
from storage.opening import open_workspace

PLACES: dict[str, tuple[Any, str]] = {
    "ready_project": (Server, "ready_project"),
    "upload": (Server, "upload"),
    "add_tasks": (Server, "add_tasks"),
    "add_predictions": (Server, "add_predictions"),
    "remember": (push, "_register_project"),
    "export": (pull, "_exported"),
    "keep": (pull, "store_new_labels"),
    "pack": (pull, "pack"),
    "withdraw": (pull, "_withdraw"),
}
UNDER_WAY_SECONDS = 0.02


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(action: Callable[..., Any], when: str, visit: int) -> Callable[..., Any]:
    """The action, which ends the process `before`, `after` or `amid` its visit of that number."""
    visits = 0

    def wrapped(*given: Any, **named: Any) -> Any:
        nonlocal visits
        visits += 1
        if visits == visit and when == "before":
            die()
        if visits == visit and when == "amid":
            threading.Thread(target=lambda: (time.sleep(UNDER_WAY_SECONDS), die())).start()
        result = action(*given, **named)
        if visits == visit:
            die()
        return result

    return wrapped


def main(url: str, token: str, path: str, project: str, point: str) -> None:
    """Do it in batches of two, up to the place."""
    what, place, visit = point.split(":")
    when, _, name = place.partition(" ")
    home, attribute = PLACES[name]
    setattr(home, attribute, deadly(getattr(home, attribute), when, int(visit)))
    push.BATCH = pull.BATCH = 2
    workspace, server = open_workspace(path), Server.connect(url, token)
    if what == "push":
        push.push(workspace, server, project, round_id="r1")
    else:
        pull.pull(workspace, server, project)


if __name__ == "__main__":
    main(*sys.argv[1:])
