"""The unit of work, on both databases: nothing half, one clear error."""

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from dataengine.errors import Unavailable, WorkspaceUnusable
from dataengine.records import DEFAULT_CLASSES
from storage.catalog import Catalog
from storage.engine import _CAUSES, BUSY_SECONDS, make_engine
from storage.migrate import migrate
from tests.storage.builders import image


def test_without_commit_nothing_happened(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
    with Catalog(engine) as catalog:
        assert catalog.images.count() == 0
        catalog.images.add_many([image("a")])
        catalog.commit()
        catalog.images.add_many([image("b")])
        catalog.rollback()
        catalog.images.add_many([image("c")])
        catalog.commit()
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a", "c"]


def test_an_exception_rolls_back(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
        1 / 0  # noqa: B018
    with Catalog(engine) as catalog:
        assert catalog.images.count() == 0


def test_a_reader_sees_one_state_and_cannot_write(engine: Engine) -> None:
    with Catalog(engine, read_only=True) as reader:
        assert reader.images.count() == 0
        with Catalog(engine) as writer:
            writer.images.add_many([image("a")])
            writer.commit()
        assert reader.images.count() == 0, "readers do not wait for writers, nor see them half way"
        with pytest.raises(WorkspaceUnusable, match="read-only"):
            reader.images.add_many([image("b")])
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    migrate(engine)
    with Catalog(engine) as catalog:
        catalog.images.add_many([image("a")])
        catalog.commit()
        pages = catalog.connection.scalar(text("PRAGMA page_count"))
        catalog.connection.execute(text(f"PRAGMA max_page_count={pages + 4}"))
        with pytest.raises(WorkspaceUnusable, match="is full; free disk space"):
            catalog.images.add_many([image(f"b{number}", prompt="x" * 1000) for number in range(5000)])
    with Catalog(engine) as catalog:
        assert catalog.images.ids() == ["a"]


def test_a_database_that_is_away_is_one_clear_error(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/catalog.sqlite", f"postgresql://clinic@/x?host={tmp_path}"):
        with pytest.raises(WorkspaceUnusable) as error, Catalog(make_engine(url)):
            pass
        assert "cannot be opened" in str(error.value) or "does not respond" in str(error.value)


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.engine.BUSY_SECONDS", 0.05)
    engine = make_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    with Catalog(engine), pytest.raises(WorkspaceUnusable, match="another writer"), Catalog(engine):
        pass


def test_a_writer_that_committed_lets_the_next_one_write(engine: Engine) -> None:
    """Writers of one process take turns; a turn ends with the commit, not with the block."""
    began = time.monotonic()
    with Catalog(engine) as first:
        first.classes.add("d")
        first.commit()
        with Catalog(engine) as second:
            second.classes.add("e")
            second.commit()
    assert time.monotonic() - began < BUSY_SECONDS / 3
    with Catalog(engine, read_only=True) as catalog:
        assert catalog.classes.names() == (*DEFAULT_CLASSES, "d", "e")
        with pytest.raises(AttributeError, match="nothing"):
            _ = catalog.nothing


@pytest.mark.postgres
def test_a_connection_that_the_server_closed_is_replaced(postgres_url: str) -> None:
    """After a restart of PostgreSQL the connections that are kept are dead, and nobody shall notice."""
    engine, other = make_engine(postgres_url), make_engine(postgres_url)
    ours = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.connect() as one, engine.connect() as two:
        assert one.scalar(text("SELECT 1")) == two.scalar(text("SELECT 1")) == 1
    with other.connect() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {ours}"))
    with engine.connect() as one, engine.connect() as two:
        assert one.scalar(text("SELECT 1")) == two.scalar(text("SELECT 1")) == 1
    engine.dispose()
    other.dispose()


@pytest.mark.postgres
def test_waiting_for_postgresql_is_bounded(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    with engine.connect() as connection:
        limits = [connection.scalar(text(f"SHOW {name}")) for name in ("lock_timeout", "statement_timeout")]
        assert limits == ["30s", "10min"]
        connection.execute(text("SET statement_timeout = '20ms'"))
        with pytest.raises(Unavailable, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(5)"))
    engine.dispose()


@pytest.mark.parametrize(
    "message", ["password authentication failed for user", 'database "x" does not exist']
)
def test_what_an_admin_has_to_mend_is_not_waited_for(message: str) -> None:
    kinds = [
        kind for pattern, _, kind in _CAUSES if re.search(pattern, f"connection failed: {message}", re.I)
    ]
    assert kinds[0] is WorkspaceUnusable
