"""Migration of a catalog to this version's schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from dataengine.errors import WorkspaceUnusable
from storage.engine import connect_for_reading

REVISION = "0019"
"""The newest migration; a catalog at another one is older (upgraded) or newer (refused)."""
SCRIPTS = Path(__file__).with_name("migrations")

_LOCK = 0x636C696E  # arbitrary but unique: PostgreSQL's advisory lock against concurrent upgrades


def revision(engine: Engine) -> str | None:
    """The catalog's current migration; None for an empty database."""
    with connect_for_reading(engine) as connection:
        return _revision(connection)


def migrate(engine: Engine, backup: Callable[[], Any] | None = None) -> None:
    """Create the schema, or upgrade it after `backup()`, in one transaction; a no-op when current.

    Raises `WorkspaceUnusable` if the catalog was written by a newer version.
    """
    current = revision(engine)
    if current == REVISION:
        return
    if current is not None:
        if current not in known_revisions():
            raise WorkspaceUnusable(
                f"the catalog has schema {current!r}, but this version supports up to {REVISION!r}: a "
                "newer Artifact Clinic wrote it. Install that version, or restore an older backup"
            )
        if backup is not None:
            backup()
    with engine.begin() as connection:
        upgrade(connection)


def known_revisions() -> set[str]:
    """The migrations of this version."""
    return {script.revision for script in _scripts().walk_revisions()}


def upgrade(connection: Connection, target: str = "head") -> None:
    """Run the migrations up to `target` inside the connection's transaction."""
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _scripts() -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())
