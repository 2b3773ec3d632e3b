"""The public description of the API: complete, stable, and readable without signing in."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

from pipelines.services.admin import tokens
from storage.workspace import Workspace
from tests.ui.web.test_access import routes
from ui.reference.description import HIDDEN, METHODS, operation_id
from ui.reference.summaries import SUMMARIES

Clients = Callable[..., TestClient]


@pytest.fixture
def document(client_of: Clients) -> dict[str, Any]:
    answer = client_of().get("/api/v1/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    paths = document["paths"].items()
    return {(method.upper(), path): one for path, each in paths for method, one in each.items()}


def test_every_json_route_is_described(client_of: Clients, document: dict[str, Any]) -> None:
    served = {
        (method, path.replace("/api/", "/api/v1/", 1))
        for method, path in routes(client_of().app.routes)  # type: ignore[attr-defined]
        if path.startswith("/api/") and path not in HIDDEN and method.lower() in METHODS
    }
    assert served == set(operations(document)) and len(served) > 150


def test_every_operation_says_what_it_does_and_who_may(document: dict[str, Any]) -> None:
    found = operations(document)
    for key, one in found.items():
        assert " " in one["summary"] and len(one["summary"]) <= 110 and "\n" not in one["summary"], key
        assert one["tags"] and one["operationId"] and "422" in one["responses"], key
        if one["security"]:
            assert one["x-roles"] and {"401", "403"} <= set(one["responses"]), key
    assert [key for key, one in found.items() if not one["security"]] == [("POST", "/api/v1/login")]
    assert {tag["name"] for tag in document["tags"]} == {one["tags"][0] for one in found.values()}


def test_ids_are_unique_and_follow_method_and_path(document: dict[str, Any]) -> None:
    ids = Counter(one["operationId"] for one in operations(document).values())
    assert not [id for id, count in ids.items() if count > 1]
    assert operation_id("get", "/api/curate/images/{image_id}") == "get_curate_images_by_image_id"
    assert "get_images_by_image_id_pixels" in ids


def test_no_summary_is_of_a_route_that_is_gone(document: dict[str, Any]) -> None:
    known = {f"{method} {path.replace('/v1', '', 1)}" for method, path in operations(document)}
    assert set(SUMMARIES) <= known, set(SUMMARIES) - known


def test_the_token_scheme_is_named(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    one = operations(document)["GET", "/api/v1/curate/images"]
    assert one["security"] == [{"bearer": []}, {"session": []}]
    assert one["x-roles"] == ["admin", "curator", "engineer"]
    assert operations(document)["POST", "/api/v1/account/tokens"]["security"] == [{"session": []}]


def test_old_and_versioned_paths_are_the_same(client_of: Clients, workspace: Workspace) -> None:
    text, _ = tokens.create_token(workspace, "curator", "x", ["curator"], 1, "test")
    client = client_of(headers={"Authorization": f"Bearer {text}"})
    assert client.get("/api/v1/curate/count").json() == client.get("/api/curate/count").json()
    assert client.get("/api/v1/admin/audit.csv").status_code == 403
    assert client.get("/api/v2/curate/count").status_code == client.get("/api/v1").status_code == 404
    assert client.get("/api/v1/v1/curate/count").status_code == 404
    assert client_of().get("/api/v1/curate/count").status_code == 401
    curator = client_of("curator")
    del curator.headers["X-Clinic-CSRF"]
    body = {"name": "v", "query": {}}
    assert curator.post("/api/v1/curate/views", json=body).status_code == 403
    assert client.post("/api/v1/curate/views", json=body).status_code == 200
    too_large = {"name": "x" * 2**21, "query": {}}
    assert client.post("/api/v1/curate/views", json=too_large).status_code == 413


@pytest.mark.browser
def test_a_stranger_reads_and_filters_the_page(browser: Browser, live: tuple[str, Workspace]) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 800})  # type: ignore[arg-type]
        page, problems, foreign = context.new_page(), [], []
        page.on("console", lambda one, seen=problems: seen.append(one.text))
        page.on("request", lambda one, seen=foreign: seen.append(one.url))
        page.goto(f"{live[0]}/api/docs#get_curate_images")
        expect(page.locator("#get_curate_images .description")).to_be_visible()
        page.get_by_label("Find").fill("promote champion")
        expect(page.locator("#post_train_promote")).to_be_visible()
        expect(page.locator("#get_curate_images")).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not problems and all(one.startswith(live[0]) for one in foreign)
        context.close()
