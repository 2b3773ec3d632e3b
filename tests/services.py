"""PostgreSQL and Chromium for tests; skipped visibly when absent, or failed (CLINIC_REQUIRE_SERVICES=1)."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from storage.catalog import Catalog
from storage.engine import Engine, make_engine
from storage.migrate import migrate
from storage.opening import create_workspace
from storage.tables import metadata
from storage.workspace import Workspace

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def absent(reason: str) -> NoReturn:
    """Skip with the reason; fail where the services are required."""
    if os.environ.get("CLINIC_REQUIRE_SERVICES") == "1":
        pytest.fail(f"required service: {reason}", pytrace=False)
    pytest.skip(reason)


def chromium_path() -> str:
    """The system's Chromium."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    return found or absent("Chromium is not installed (Debian: chromium): browser tests need it")


def _programs() -> Path:
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    folder = homes[-1] if homes else Path(found).parent if found else None
    if folder is None or not (folder / "initdb").exists():
        absent("PostgreSQL's server is not installed (Debian: postgresql): its half of the tests needs it")
    return folder


def as_server(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root, so root runs it as Debian's `postgres`."""
    if os.geteuid() != 0:
        return command
    return ["runuser", "-u", "postgres", "--", *command]


@contextmanager
def postgres_cluster(fsync: bool = False) -> Iterator[str]:
    """A private server in a temporary folder, reached by a socket there; yields its URL.

    Tests do without `fsync`; where what is committed must be on the disk, it is needed.
    """
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path must stay short
    data, sockets = folder / "data", folder / "s"
    sockets.mkdir()
    try:
        if os.geteuid() == 0:
            for path in (folder, sockets):
                shutil.chown(path, "postgres", "postgres")
        control = as_server([str(programs / "pg_ctl"), "-D", str(data), "-s", "-w"])
        initdb = ["initdb", "-D", str(data), "-U", "clinic", "-A", "trust", "-E", "UTF8", "--no-sync"]
        options = (
            f"-k {sockets} -c listen_addresses='' -c fsync={'on' if fsync else 'off'} -c max_connections=100"
        )
        try:
            _run(as_server([str(programs / initdb[0]), *initdb[1:], "--locale=C.UTF-8"]), folder)
            _run([*control, "-l", str(data / "log"), "-o", options, "start"], folder)
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            absent(f"PostgreSQL may not be started here: {error}")
        try:
            yield f"postgresql+psycopg://clinic@/postgres?host={sockets}"
        finally:
            _run([*control, "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command, check=True, timeout=180, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """One server for the session."""
    with postgres_cluster() as url:
        yield url


@contextmanager
def database(server_url: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    server = create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server_url.replace("/postgres?", f"/{name}?")
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """An empty database of the test's own."""
    with database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def _migrated_postgres(postgres: str) -> Iterator[str]:
    with database(postgres) as url:
        _migrate(url)
        yield url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite"
    _migrate(f"sqlite:///{path}")
    return path


def _empty(url: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
        for table in reversed(metadata.sorted_tables):
            if table.name != "workspace":  # the identity, which a migration gave it
                connection.execute(table.delete())


def _migrate(url: str) -> None:
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()


DATABASES = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: the test runs on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'catalog.sqlite'}"


@pytest.fixture(params=DATABASES)
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with an empty catalog: on SQLite and on PostgreSQL, where tests take turns with one."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("_migrated_postgres")
        yield url
        _empty(url)
    else:
        path = tmp_path / "catalog.sqlite"
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), path)
        yield f"sqlite:///{path}"


@pytest.fixture
def engine(catalog_url: str) -> Iterator[Engine]:
    """An engine over an empty catalog."""
    engine = make_engine(catalog_url)
    yield engine
    engine.dispose()


@pytest.fixture
def workspace(catalog_url: str, tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace with its catalog in the database of the test."""
    own = catalog_url.startswith("sqlite")
    (tmp_path / "workspace").mkdir()
    if own:
        (tmp_path / "catalog.sqlite").rename(tmp_path / "workspace" / "catalog.sqlite")
    workspace = create_workspace(tmp_path / "workspace", database_url=None if own else catalog_url)
    yield workspace
    workspace.close()


@pytest.fixture
def catalog(engine: Engine) -> Iterator[Catalog]:
    """A writing unit of work that the test's end rolls back."""
    with Catalog(engine) as catalog:
        yield catalog
