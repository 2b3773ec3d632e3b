"""One folder is one project: `catalog.sqlite`, `jobs.sqlite`, `blobs/`, `snapshots/`, `checkpoints/`.

Teams point CLINIC_DATABASE_URL at PostgreSQL and CLINIC_BLOB_URL at any fsspec URL; the folder then holds
only data that can be recreated: fetched checkpoints, exported shards, scratch folders.
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from storage.addresses import redacted_url
from storage.stores.blobs import Blobs
from storage.stores.checkpoints import Checkpoints
from storage.stores.job_files import JobFiles
from storage.stores.maps import Maps
from storage.stores.secret_file import read_or_create_secret
from storage.stores.snapshots import Snapshots
from storage.stores.uploads import Uploads

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from storage.catalog import Catalog


DATABASE_VARIABLE = "CLINIC_DATABASE_URL"
BLOB_VARIABLE = "CLINIC_BLOB_URL"
CATALOG_FILE = "catalog.sqlite"
JOBS_FILE = "jobs.sqlite"


class Workspace:
    """The stores of one project. Created by `storage.opening`; thread-safe."""

    def __init__(self, path: Path, database_url: str | None, blob_url: str | None) -> None:
        self.path = path
        self.own_database = database_url is None
        self.database_url = database_url or f"sqlite:///{path / CATALOG_FILE}"
        self.blob_url = blob_url or str(path / "blobs")

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    @classmethod
    def located(cls, path: str | Path, database_url: str | None, blob_url: str | None) -> Self:
        """The workspace in `path`, without creating or checking it. Arguments override the environment; an
        empty one stands for the folder's own catalog or blobs."""
        if database_url is None:
            database_url = os.environ.get(DATABASE_VARIABLE)
        if blob_url is None:
            blob_url = os.environ.get(BLOB_VARIABLE)
        return cls(Path(path).expanduser().absolute(), database_url or None, blob_url or None)

    @property
    def shown_blob_url(self) -> str:
        """The blob store's address for messages, without keys."""
        return redacted_url(self.blob_url)

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

        return make_engine(self.database_url, self.path, shared=not self.own_database)

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
        """Files of running jobs."""
        return JobFiles(self.catalog, self.path / "jobs", shared=not self.own_database)

    @cached_property
    def uploads(self) -> Uploads:
        """Files that browsers send to be imported, on the server's machine."""
        return Uploads(self.path / "uploads")

    @cached_property
    def snapshots(self) -> Snapshots:
        """Training sets."""
        return Snapshots(self.catalog, self.blobs, self.maps, self.path / "snapshots")

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The key in the file `name` of this folder, created once; see `storage.stores.secret_file`."""
        return read_or_create_secret(self.path / name, make)

    def close(self) -> None:
        """Close database connections; the workspace can be used again afterwards."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    @property
    def catalog_file(self) -> Path:
        """The SQLite catalog's file; it exists only where the workspace has a database of its own."""
        return self.path / CATALOG_FILE
