"""Home: what waits for each role, an empty workspace that leads, a guest that sees the study alone."""

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from dataengine.records import Guest, Study
from storage.accounts import create_user
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, PASSWORD, sign_in
from tests.ui.curate.test_routes import draw, ids_of
from ui.config import ServerConfig
from ui.server import create_app

Clients = Callable[..., TestClient]


def tasks(client: TestClient) -> list[str]:
    page = client.get("/").text
    return re.findall(r'<li><a href="[^"]+">([^<]+)</a>', page)


def add_study(workspace: Workspace, id: str = "s1") -> None:
    first, second = ids_of(workspace)[:2]
    with workspace.catalog() as catalog:
        catalog.studies.add(
            Study(id=id, name="Hands", before_id="base", after_id="treated", pairs=((first, second),), seed=1)
        )
        catalog.commit()


def test_each_role_sees_its_own_work(client_of: Clients, workspace: Workspace) -> None:
    """desks 1.12."""
    first, second, *_ = ids_of(workspace)
    draw(workspace, first, "annotator", 10)
    draw(workspace, second, "annotator", None)
    add_study(workspace)
    assert tasks(client_of("annotator")) == ["6 images to label"]
    assert tasks(client_of("curator")) == ["2 labels to review"]
    assert tasks(client_of("rater")) == ["1 study to judge"]
    assert tasks(client_of("engineer")) == []
    assert tasks(client_of("admin")) == ["6 images to label", "2 labels to review", "1 study to judge"]
    assert "Nothing waits for you" in client_of("engineer").get("/").text


@pytest.mark.parametrize("role", ["annotator", "rater"])
def test_figures_of_the_workspace_are_for_those_who_run_it(client_of: Clients, role: str) -> None:
    page = client_of(role).get("/").text
    for word in ("first doctor", "treatments", "No worker", "detectors"):
        assert word not in page
    assert "first doctor" in client_of("curator").get("/").text
    assert ("train the model" in page) == (role == "annotator")


def test_a_guest_sees_nothing_but_the_study(client_of: Clients, workspace: Workspace) -> None:
    """desks 1.12 and 5.3."""
    add_study(workspace)
    with workspace.catalog() as catalog:
        create_user(catalog, "rater-1a", PASSWORD, ["rater"], "test")
        catalog.guests.add(Guest(name="rater-1a", study_id="s1"))
        catalog.commit()
    answer = client_of("rater-1a").get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/study")


def test_an_empty_workspace_leads_to_its_first_images(bare: Workspace) -> None:
    """desks 1.1."""
    with bare.catalog() as catalog:
        for role in ("curator", "annotator"):
            create_user(catalog, role, PASSWORD, [role], "test")
        catalog.commit()
    app = create_app(bare, ServerConfig(desks=False))
    pages = {
        role: sign_in(TestClient(app, base_url=ORIGIN, follow_redirects=False), role).get("/").text
        for role in ("curator", "annotator")
    }
    for path in ("/import", "/import#folder", "/import#demo"):
        assert f'href="{path}"' in pages["curator"] and f'href="{path}"' not in pages["annotator"]
    assert "docs/own_images.md" in pages["curator"] and "home-figures" not in pages["curator"]
