"""Label classes on the desks: colours everywhere, retired ones no longer offered but still named."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from pipelines.services.admin import classes
from storage.workspace import Workspace


def test_colours_reach_every_page(client_of: Callable[..., TestClient], workspace: Workspace) -> None:
    client = client_of("rater")
    assert (
        "--class-1: #d55e00; --class-2: #56b4e9; --class-3: #f0e442; --class-count: 3"
        in client.get("/classes.css").text
    )
    seen = classes.find_class(workspace, 2)
    classes.change_class(workspace, seen, replace(seen, color="#123456"), "admin")
    for number in range(4, 9):
        classes.add_class(workspace, f"class {number}", "", "admin")
    styles = client.get("/classes.css")
    assert "--class-2: #123456;" in styles.text and "--class-count: 8" in styles.text
    assert styles.headers["content-type"].startswith("text/css")
    assert '<link rel="stylesheet" href="/classes.css">' in client_of("annotator").get("/annotate").text
    assert client_of().get("/classes.css").status_code == 401


@pytest.mark.parametrize(("value", "offered"), [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])])
def test_annotators_are_not_offered_a_retired_class(
    client_of: Callable[..., TestClient], workspace: Workspace, value: int, offered: list[int]
) -> None:
    seen = classes.find_class(workspace, value)
    classes.change_class(workspace, seen, replace(seen, retired=True), "admin")
    task = client_of("annotator").get("/api/annotate/next").json()
    assert task["offered"] == offered
    assert task["classes"] == ["shape distortion", "unreasonable content", "watermark"]


def test_annotators_see_the_order_that_the_admin_chose(
    client_of: Callable[..., TestClient], workspace: Workspace
) -> None:
    third = classes.find_class(workspace, 3)
    classes.change_class(workspace, third, replace(third, place=1, name="text"), "admin")
    task = client_of("annotator").get("/api/annotate/next").json()
    assert task["offered"] == [3, 1, 2] and task["classes"][2] == "text"
    choices = client_of("curator").get("/api/curate/choices").json()
    assert choices["classes"] == ["shape distortion", "unreasonable content", "text"]
