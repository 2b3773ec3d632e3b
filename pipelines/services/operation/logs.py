"""Logs as JSON lines, without secrets, in files that begin anew before they fill a disk.

The server and the workers write them: each line holds when, how severe, what, and, while a request is
answered, its id.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

MOST_BYTES, KEPT = 5_000_000, 5
"""Size of a log file, and how many former ones are kept beside it."""
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
REMOVED = "[removed]"
_NAME = r"token|password|passwd|secret|csrf|authorization|api[_-]?key|credential"
SECRET_NAME = re.compile(rf"(?i){_NAME}|cookie")
_SECRETS = (
    (re.compile(r"(?i)((?:set-)?cookie[\"']?\s*[=:]\s*)[^\r\n]+"), rf"\1{REMOVED}"),
    (
        re.compile(rf"(?i)((?:{_NAME})[\"']?\s*[=:]\s*)(?:(?:bearer|basic|digest)\s+)?[^\s&,;}}]+"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9+/=._~-]{8,}"), rf"\1\2{REMOVED}"),
    (re.compile(r"(\bclinic_[0-9a-f]{8}_[0-9a-f]{8}_)[A-Za-z0-9_-]+"), rf"\1{REMOVED}"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), REMOVED),
    (re.compile(r"(\w://[^\s/:@]*:)[^\s/@]+@"), rf"\1{REMOVED}@"),
)

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is answered here; "" outside of requests."""


def without_secrets(text: str) -> str:
    """The text without cookies, credentials, and the values of anything named like a secret."""
    for pattern, kept in _SECRETS:
        text = pattern.sub(kept, text)
    return text


class JsonFormatter(logging.Formatter):
    """Formats a record and its extra fields as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": without_secrets(record.getMessage()),
            "logger": record.name,
        }
        if request := request_id.get():
            fields["request"] = request
        fields |= {key: cleaned(value, key) for key, value in vars(record).items() if key not in STANDARD}
        if record.exc_info:
            fields["error"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(fields, default=lambda value: without_secrets(str(value)), ensure_ascii=False)


def cleaned(value: Any, name: str = "") -> Any:
    """A field's value without secrets, at every depth; nothing of a text whose name says that it is one."""
    if isinstance(value, str):
        return REMOVED if SECRET_NAME.search(name) else without_secrets(value)
    if isinstance(value, dict):
        return {key: cleaned(inner, str(key)) for key, inner in value.items()}
    return [cleaned(inner, name) for inner in value] if isinstance(value, list | tuple) else value


class PrivateLog(RotatingFileHandler):
    """A file that begins anew at `most_bytes`, keeps `kept` former ones, and is its owner's alone."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> None:
        super().__init__(path, maxBytes=most_bytes, backupCount=kept, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=private)


def private(path: str, flags: int) -> int:
    """An `opener` for files that others must not read."""
    return os.open(path, flags, 0o600)


def log_to_stderr() -> None:
    """Send this process's lines to standard error: as JSON, or as plain text where a person reads them."""
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(plain if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def relay(lines: Iterable[bytes], log: logging.Handler, name: str) -> None:
    """Write another process's output to a log until it ends: JSON lines as they are, all else, such as what
    native libraries print, as records of the logger `name`."""
    log.setFormatter(LineFormatter())
    for line in lines:
        text = line.decode(errors="replace").rstrip()
        if text:
            log.handle(logging.makeLogRecord({"name": name, "levelname": "INFO", "msg": text}))


class LineFormatter(JsonFormatter):
    """Passes on what is a JSON line already."""

    def format(self, record: logging.LogRecord) -> str:
        text = str(record.msg)
        return text if text.startswith('{"at": ') and text.endswith("}") else super().format(record)
