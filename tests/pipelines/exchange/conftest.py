"""An empty workspace, copied from one made once: migrations are slow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.workspace import Workspace


@pytest.fixture(scope="session")
def _bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "workspace"
    Workspace.create(path).close()
    return path


@pytest.fixture
def fresh(_bare: Path, tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace on SQLite."""
    workspace = Workspace.open(shutil.copytree(_bare, tmp_path / "fresh"))
    yield workspace
    workspace.close()


@pytest.fixture
def another(_bare: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A second one, to import into."""
    workspace = Workspace.open(shutil.copytree(_bare, tmp_path / "another"))
    yield workspace
    workspace.close()
