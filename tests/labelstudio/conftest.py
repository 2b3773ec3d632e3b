"""One Label Studio for the session, and our own web server over a furnished workspace."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.exchange.label_studio.server import Server
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.labelstudio.server import LabelStudioServer, running
from tests.ui.conftest import add_people, furnish
from ui.config import ServerConfig
from ui.server import background


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    with running(tmp_path_factory.mktemp("label-studio")) as server:
        yield server


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Six images that wait in round r1, with a champion's maps."""
    from dataengine.records import Round

    workspace = create_workspace(tmp_path / "workspace")
    furnish(workspace)
    add_people(workspace)
    with workspace.catalog() as catalog:
        catalog.rounds.add(Round(id="r1", recipe={}, stage="wait_for_labels", state="waiting"))
        catalog.commit()
    yield workspace
    workspace.close()


@pytest.fixture
def ours(workspace: Workspace) -> Iterator[str]:
    """The address of our web server."""
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        yield where.url


@pytest.fixture(scope="session")
def server(label_studio: LabelStudioServer) -> Server:
    return Server.connect(label_studio.url, label_studio.token)


@pytest.fixture
def title(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name[:30]} {uuid.uuid4().hex[:8]}"
