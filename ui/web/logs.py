"""The server's log: one JSON object per line, with nothing secret in it."""

import json
import logging
import re
import sys
from typing import Any, TextIO

logger = logging.getLogger("clinic.web")

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
SECRET = re.compile(
    r"(?i)((?:token|password|secret|csrf|cookie|authorization|api_key)[\"']?\s*[=:]\s*)[^\s&,;}]+"
)


def without_secrets(text: str) -> str:
    """The text with the values of anything named like a secret taken out."""
    return SECRET.sub(r"\1[removed]", text)


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


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Send the server's own lines, and uvicorn's warnings, to the stream as JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name, lowest in (
        ("clinic.web", level),
        ("uvicorn", logging.WARNING),
        ("uvicorn.error", logging.WARNING),
    ):
        channel = logging.getLogger(name)
        channel.handlers[:] = [handler] if name != "uvicorn.error" else []
        channel.setLevel(lowest)
        channel.propagate = name == "uvicorn.error"
