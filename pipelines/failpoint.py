"""Places where a test may pull the plug: `fail_point("generate:after_blob")`."""

import os
import signal
from pathlib import Path


def fail_point(name: str) -> None:
    """Kill this process without warning if `CLINIC_FAIL_AT` names this place; once per marker file.

    `CLINIC_FAIL_AT` is a comma-separated list of names, `CLINIC_FAIL_DIR` the folder of marker files.
    The marker is made durable before the kill, so a restarted process passes.
    """
    wanted = os.environ.get("CLINIC_FAIL_AT")
    if not wanted or name not in wanted.split(","):
        return
    marker = Path(os.environ["CLINIC_FAIL_DIR"]) / name.replace(":", ".")
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
