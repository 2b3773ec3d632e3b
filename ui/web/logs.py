"""The server's log: one JSON object per line, with nothing secret in it. Formats and files are those of
`pipelines.services.operation.logs`, which the workers share."""

import logging
import re
import secrets
import sys
from pathlib import Path
from typing import TextIO

from pipelines.services.admin.worker_logs import LEVELS
from pipelines.services.operation.logs import KEPT, MOST_BYTES, JsonFormatter, PrivateLog

logger = logging.getLogger("clinic.web")

REQUEST_ID = "X-Request-ID"
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
"""Ids of requests that are taken over from a proxy."""


def new_request_id() -> str:
    """A random id, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def log_to_file(path: Path, level: str = "info", most_bytes: int = MOST_BYTES, kept: int = KEPT) -> None:
    """Send the server's lines to a file as JSON; errors go to the terminal as well, and all lines where the
    file cannot be written."""
    try:
        file = PrivateLog(path, most_bytes, kept)
    except OSError:
        log_to(level=LEVELS[level])
        return
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    send_to(file, errors, level=LEVELS[level])


def log_to(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send the server's lines to the stream (default: the terminal's for errors) as JSON."""
    send_to(logging.StreamHandler(stream or sys.stderr), level=level)


def send_to(*handlers: logging.Handler, level: int = logging.INFO) -> None:
    """Send the server's own lines, and uvicorn's warnings, to these handlers."""
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    for name, lowest in (
        ("clinic.web", level),
        ("uvicorn", max(level, logging.WARNING)),
        ("uvicorn.error", max(level, logging.WARNING)),
    ):
        channel = logging.getLogger(name)
        channel.handlers[:] = handlers if name != "uvicorn.error" else []
        channel.setLevel(lowest)
        channel.propagate = name == "uvicorn.error"
