"""An empty workspace, copied from one made once: migrations are slow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace


@pytest.fixture(scope="session")
def _bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "workspace"
    create_workspace(path).close()
    return path


@pytest.fixture
def fresh(_bare: Path, tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace on SQLite."""
    workspace = open_workspace(shutil.copytree(_bare, tmp_path / "fresh"))
    yield workspace
    workspace.close()


@pytest.fixture
def another(_bare: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A second one, to import into."""
    workspace = open_workspace(shutil.copytree(_bare, tmp_path / "another"))
    yield workspace
    workspace.close()
