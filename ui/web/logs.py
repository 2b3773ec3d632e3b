"""The server's log: one JSON object per line, with nothing secret in it."""

import json
import logging
import os
import re
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger("clinic.web")

MOST_BYTES, KEPT = 5_000_000, 5
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
SECRET = re.compile(
    r"(?i)((?:token|password|secret|csrf|cookie|authorization|api_key)[\"']?\s*[=:]\s*)[^\s&,;}]+"
)


API_TOKEN = re.compile(r"(clinic_[0-9a-f]{8}_[0-9a-f]{8}_)[A-Za-z0-9_-]+")


def without_secrets(text: str) -> str:
    """The text with API tokens, and the values of anything named like a secret, taken out."""
    return SECRET.sub(r"\1[removed]", API_TOKEN.sub(r"\1[removed]", text))


class JsonFormatter(logging.Formatter):
    """Formats a record and its extra fields as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": without_secrets(record.getMessage()),
        }
        fields |= {
            key: without_secrets(value) if isinstance(value, str) else value
            for key, value in vars(record).items()
            if key not in STANDARD
        }
        if record.exc_info:
            fields["error"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(fields, default=str, ensure_ascii=False)


class PrivateLog(RotatingFileHandler):
    """A file that begins anew at `MOST_BYTES`, keeps `KEPT` former ones, and is its owner's alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=private)


def private(path: str, flags: int) -> int:
    """An `opener` for files that others must not read."""
    return os.open(path, flags, 0o600)


def log_to_file(path: Path) -> None:
    """Send the server's lines to a file as JSON; errors go to the terminal as well, and all lines where the
    file cannot be written."""
    try:
        file = PrivateLog(path)
    except OSError:
        log_to()
        return
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    send_to(file, errors)


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Send the server's lines to the stream as JSON."""
    send_to(logging.StreamHandler(stream), level=level)


def send_to(*handlers: logging.Handler, level: int = logging.INFO) -> None:
    """Send the server's own lines, and uvicorn's warnings, to these handlers."""
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    for name, lowest in (
        ("clinic.web", level),
        ("uvicorn", logging.WARNING),
        ("uvicorn.error", logging.WARNING),
    ):
        channel = logging.getLogger(name)
        channel.handlers[:] = handlers if name != "uvicorn.error" else []
        channel.setLevel(lowest)
        channel.propagate = name == "uvicorn.error"
