"""The repository of settings that an admin may change."""

from typing import Any

from sqlalchemy import Connection, select

from storage import tables
from storage.repositories.rows import replace


class Settings:
    """Small JSON objects by name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> dict[str, Any]:
        """The settings of that name; empty where none were stored."""
        table = tables.settings.c
        return self._connection.scalar(select(table.value).where(table.name == name)) or {}

    def set(self, name: str, value: dict[str, Any]) -> None:
        """Store the settings of that name."""
        replace(self._connection, tables.settings, {"name": name, "value": value})
