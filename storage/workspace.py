"""One folder is one project: `catalog.sqlite`, `jobs.sqlite`, `blobs/`, `snapshots/`, `checkpoints/`.

Teams point CLINIC_DATABASE_URL at PostgreSQL and CLINIC_BLOB_URL at any fsspec URL; the folder then holds
only what this machine can make again: fetched checkpoints, exported shards, scratch.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dataengine.errors import WorkspaceUnusable
from storage.blobs import Blobs, writing
from storage.checkpoints import Checkpoints
from storage.job_files import JobFiles
from storage.maps import Maps
from storage.snapshots import Snapshots

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from storage.catalog import Catalog

DATABASE_VARIABLE = "CLINIC_DATABASE_URL"
BLOB_VARIABLE = "CLINIC_BLOB_URL"
CATALOG_FILE = "catalog.sqlite"
JOBS_FILE = "jobs.sqlite"


class Workspace:
    """Where everything of one project is kept. Made by `create` or `open`, shared freely between threads."""

    def __init__(self, path: Path, database_url: str | None, blob_url: str | None) -> None:
        self.path = path
        self.own_database = database_url is None
        self.database_url = database_url or f"sqlite:///{path / CATALOG_FILE}"
        self.blob_url = blob_url or str(path / "blobs")

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    @classmethod
    def create(
        cls, path: str | Path, database_url: str | None = None, blob_url: str | None = None
    ) -> "Workspace":
        """Make the workspace in `path`, or open and upgrade the one that is there.

        Arguments win over the environment. Raises `WorkspaceUnusable`, leaving no half-made catalog behind,
        when the folder is full or read-only, and when a newer version wrote it.
        """
        workspace = cls._located(path, database_url, blob_url)
        fresh = workspace.own_database and not workspace._catalog_file.exists()
        with writing(workspace.path):
            workspace.path.mkdir(parents=True, exist_ok=True)
        try:
            workspace._migrate()
        except BaseException:
            half_made = fresh and not workspace._has_schema()
            workspace.close()
            if half_made:
                for leftover in workspace.path.glob(f"{CATALOG_FILE}*"):
                    leftover.unlink(missing_ok=True)
            raise
        return workspace

    @classmethod
    def open(
        cls, path: str | Path, database_url: str | None = None, blob_url: str | None = None
    ) -> "Workspace":
        """Open the workspace in `path`, upgrading its catalog after a backup where that is needed.

        Raises `WorkspaceUnusable` when there is none, it cannot be used, or a newer version wrote it.
        """
        workspace = cls._located(path, database_url, blob_url)
        if workspace.own_database and not workspace._catalog_file.is_file():
            raise WorkspaceUnusable(
                f"there is no workspace in {workspace.path}: it has no {CATALOG_FILE}. Give the right folder "
                f"with --workspace, make one with `clinic app`, or set {DATABASE_VARIABLE}."
            )
        return cls.create(path, database_url, blob_url)

    @classmethod
    def _located(cls, path: str | Path, database_url: str | None, blob_url: str | None) -> Self:
        return cls(
            Path(path).expanduser().absolute(),
            database_url or os.environ.get(DATABASE_VARIABLE) or None,
            blob_url or os.environ.get(BLOB_VARIABLE) or None,
        )

    @property
    def jobs_url(self) -> str:
        """The durable work queue's database: `jobs.sqlite`, or a schema of its own in a team's database."""
        return f"sqlite:///{self.path / JOBS_FILE}" if self.own_database else self.database_url

    def catalog(self, read_only: bool = False) -> "Catalog":
        """A unit of work over the catalog, see `storage.catalog`."""
        from storage.catalog import Catalog

        return Catalog(self.engine, read_only)

    @cached_property
    def engine(self) -> "Engine":
        """The database engine, for `storage` itself."""
        from storage.engine import make_engine

        return make_engine(self.database_url)

    @cached_property
    def blobs(self) -> Blobs:
        """Content-addressed bytes."""
        return Blobs(self.blob_url)

    @cached_property
    def maps(self) -> Maps:
        """Packed artifact maps."""
        return Maps(self.blobs)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Trained weights, and scratch folders for training."""
        return Checkpoints(self.blobs, self.path / "checkpoints")

    @cached_property
    def job_files(self) -> JobFiles:
        """What jobs write while they run."""
        return JobFiles(self.catalog, self.path / "jobs", shared=not self.own_database)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Training sets."""
        return Snapshots(self.catalog, self.blobs, self.maps, self.path / "snapshots")

    def close(self) -> None:
        """Give back database connections; the workspace can be used again afterwards."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    @property
    def _catalog_file(self) -> Path:
        return self.path / CATALOG_FILE

    def _has_schema(self) -> bool:
        """Whether the catalog is there after all: another process may have made it meanwhile."""
        from storage.migrate import revision

        try:
            return revision(self.engine) is not None
        except WorkspaceUnusable:
            return False

    def _migrate(self) -> None:
        from storage.backup import before_upgrade
        from storage.migrate import migrate

        migrate(self.engine, backup=lambda: before_upgrade(self))
