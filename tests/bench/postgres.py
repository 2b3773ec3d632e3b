"""A PostgreSQL server that waits for the disk, for benches with `FULL=1`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from storage.workspace import DATABASE_VARIABLE
from tests.services import postgres_cluster


@contextmanager
def on_postgres() -> Iterator[None]:
    """Workspaces made here, and servers started here, have their catalog in a fresh PostgreSQL database."""
    with postgres_cluster(fsync=True) as url:
        before = os.environ.get(DATABASE_VARIABLE)
        os.environ[DATABASE_VARIABLE] = url
        try:
            yield
        finally:
            if before is None:
                del os.environ[DATABASE_VARIABLE]
            else:
                os.environ[DATABASE_VARIABLE] = before
