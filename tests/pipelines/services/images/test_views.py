"""Saved views: one's own and the team's."""

from typing import Any

import pytest

from dataengine.errors import Conflict, InputRefused, NotFound
from pipelines.services.images import views
from pipelines.services.images.views import (
    NewView,
    ViewChange,
    change_view,
    delete_view,
    list_views,
    save_view,
)
from storage.workspace import Workspace


def seen_by(workspace: Workspace, person: str) -> list[tuple[str, bool]]:
    with workspace.catalog(read_only=True) as catalog:
        return [(one["name"], one["own"]) for one in list_views(catalog, person)]


def test_a_view_is_saved_shared_renamed_and_deleted(workspace: Workspace) -> None:
    query = {"category": "hands", "low": "0.3", "search": 'hand "five fingers"', "sort": "max", "tag": ""}
    view = save_view(workspace, NewView(name="  my   hands ", query=query), "ada")
    assert view.name == "my hands"
    assert view.query == {
        "category": "hands", "low": 0.3, "search": 'hand "five fingers"', "sort": "max"
    }  # fmt: skip
    assert seen_by(workspace, "ada") == [("my hands", True)] and seen_by(workspace, "bob") == []
    change_view(workspace, view.id, ViewChange(name="hands", shared=True), "ada")
    assert seen_by(workspace, "bob") == [("hands", False)]
    for change in (lambda: change_view(workspace, view.id, ViewChange(name="x", shared=False), "bob"),
                   lambda: delete_view(workspace, view.id, "bob")):  # fmt: skip
        with pytest.raises(NotFound, match="is ada's"):
            change()
    save_view(workspace, NewView(name="Hands", query={}), "bob")
    with pytest.raises(Conflict, match="called 'hands' already"):
        save_view(workspace, NewView(name="HANDS", query={}), "ada")
    delete_view(workspace, view.id, "ada")
    assert seen_by(workspace, "ada") == []


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("", {}),
        ("   ", {}),
        ("x" * 1_000, {}),
        ("a\x00b", {}),
        ("ok", {"sort": "name"}),
        ("ok", {"low": "2"}),
        ("ok", {"colour": "red"}),
        ("ok", {"state": ["a"]}),
        ("ok", {"search": "x" * 1_000}),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(
    workspace: Workspace, name: str, query: dict[str, Any]
) -> None:
    with pytest.raises(InputRefused):
        save_view(workspace, NewView(name=name, query=query), "ada")
    assert seen_by(workspace, "ada") == []


def test_views_have_a_bound(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MOST_VIEWS", 1)
    save_view(workspace, NewView(name="a", query={}), "ada")
    with pytest.raises(Conflict, match="delete one first"):
        save_view(workspace, NewView(name="b", query={}), "ada")
