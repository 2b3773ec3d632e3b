"""What the Admin desk lets an admin download, and nobody else."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from pipelines.services.admin.maintenance import back_up
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, sign_in
from ui.admin.exports import export_routes
from ui.config import ServerConfig
from ui.server import answer_errors, create_app


@pytest.fixture
def client(workspace: Workspace) -> Iterator[TestClient]:
    app = create_app(workspace, ServerConfig(desks=False))
    app.include_router(export_routes(workspace))
    answer_errors(app)
    yield sign_in(TestClient(app, base_url=ORIGIN, follow_redirects=False), "admin")


def test_a_backup_is_downloaded_whole(client: TestClient, workspace: Workspace) -> None:
    made = back_up(workspace)
    answer = client.get(f"/api/admin/backups/{made.path.name}")
    assert answer.content == made.path.read_bytes()
    assert made.path.name in answer.headers["content-disposition"]
    for name in ("absent.tar", "..%2Fcatalog.sqlite", "%2e%2e%2fsession.key", ".hidden.tar"):
        assert client.get(f"/api/admin/backups/{name}").status_code == 404, name


def test_the_audit_trail_is_exported_with_the_pages_filters(client: TestClient) -> None:
    whole = client.get("/api/admin/audit.csv")
    assert (
        whole.headers["content-type"].startswith("text/csv")
        and "attachment" in whole.headers["content-disposition"]
    )
    assert "added the account" in whole.text and "signed in" in whole.text
    some = client.get(
        "/api/admin/audit.csv", params={"topic": "Accounts", "actor": "Everybody", "text": "rater"}
    )
    assert "signed in" not in some.text and some.text.count("added the account") == 1
    assert client.get("/api/admin/audit.csv", params={"since": "yesterday"}).status_code == 422
    for role in ("curator", "engineer"):
        assert sign_in(client, role).get("/api/admin/audit.csv").status_code == 403
