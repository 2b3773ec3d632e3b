"""How much workers write to their logs."""

import logging

from dataengine.errors import InputRefused
from dataengine.records import AuditEvent
from storage.workspace import Workspace

SETTINGS, DEFAULT = "worker logs", "info"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The levels, from the most to the least that is written."""


def log_level(workspace: Workspace) -> str:
    """The level that an admin set."""
    with workspace.catalog(read_only=True) as catalog:
        level = catalog.settings.get(SETTINGS).get("level", DEFAULT)
    return level if level in LEVELS else DEFAULT


def set_log_level(workspace: Workspace, level: str, actor: str) -> None:
    """Set the level; running workers follow within half a minute. Raises `InputRefused`."""
    if level not in LEVELS:
        raise InputRefused(f"unknown log level {level!r}; choose one of {', '.join(LEVELS)}")
    with workspace.catalog() as catalog:
        before = catalog.settings.get(SETTINGS).get("level", DEFAULT)
        catalog.settings.set(SETTINGS, {"level": level})
        details = {"before": before, "level": level}
        catalog.audit.add(
            AuditEvent(actor=actor, action="settings.change", subject=SETTINGS, details=details)
        )
        catalog.commit()
