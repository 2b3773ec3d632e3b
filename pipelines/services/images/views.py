"""Saved views of the image grid: a filter and an order under a name, one's own or the team's."""

import secrets
from typing import Any

from pydantic import Field, ValidationError

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import SavedView
from pipelines.selections.config import ImageQuery
from pipelines.services.schemas import RequestBody
from storage.catalog import Catalog
from storage.workspace import Workspace

MOST_VIEWS = 200
"""Views of one person."""
SORTS = ("uncertainty", "max", "disagreement", "newest", "oldest")


class NewView(RequestBody):
    """A view to save."""

    name: str = Field(max_length=2_000)
    query: dict[str, Any] = Field(max_length=30)
    shared: bool = False


class ViewChange(RequestBody):
    """A view's new name, and whether it is shared."""

    name: str = Field(max_length=2_000)
    shared: bool


def list_views(catalog: Catalog, person: str) -> list[dict[str, Any]]:
    """The views that a person sees, by name."""
    return [
        {
            "id": one.id,
            "name": one.name,
            "query": one.query,
            "shared": one.shared,
            "owner": one.owner,
            "own": one.owner == person,
        }
        for one in catalog.saved_views.visible_to(person)
    ]


def save_view(workspace: Workspace, body: NewView, person: str) -> SavedView:
    """Save a view. Raises `InputRefused` for a name or a query that is none, `Conflict` for a name that the
    person uses already, and beyond `MOST_VIEWS`."""
    view = SavedView(
        id=secrets.token_hex(6),
        name=_checked_name(body.name),
        owner=person,
        query=_checked_query(body.query),
        shared=body.shared,
    )
    with workspace.catalog() as catalog:
        _refuse_taken(catalog, view.name, person)
        if sum(one.owner == person for one in catalog.saved_views.visible_to(person)) >= MOST_VIEWS:
            raise Conflict(f"you have {MOST_VIEWS} saved views; delete one first")
        catalog.saved_views.add(view)
        catalog.commit()
    return view


def change_view(workspace: Workspace, view_id: str, body: ViewChange, person: str) -> None:
    """Rename, share or unshare one's own view. Raises `NotFound`, `InputRefused`, `Conflict`."""
    name = _checked_name(body.name)
    with workspace.catalog() as catalog:
        _refuse_taken(catalog, name, person, _own(catalog, view_id, person).id)
        catalog.saved_views.change(view_id, name, body.shared)
        catalog.commit()


def delete_view(workspace: Workspace, view_id: str, person: str) -> None:
    """Delete one's own view. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        catalog.saved_views.delete(_own(catalog, view_id, person).id)
        catalog.commit()


def _own(catalog: Catalog, view_id: str, person: str) -> SavedView:
    view = catalog.saved_views.get(view_id)
    if view.owner != person:
        raise NotFound(
            f"the view {view.name!r} is {view.owner}'s; save it under a name of your own to change it"
        )
    return view


def _refuse_taken(catalog: Catalog, name: str, person: str, but: str = "") -> None:
    for one in catalog.saved_views.visible_to(person):
        if one.owner == person and one.id != but and one.name.casefold() == name.casefold():
            raise Conflict(f"you have a view called {one.name!r} already; choose another name")


def _checked_name(text: str) -> str:
    name = " ".join(text.split())
    if not name or not name.isprintable() or len(name) > 80:
        raise InputRefused(f"a view's name has 1 to 80 visible characters, and this one has {len(name):,}")
    return name


def _checked_query(query: dict[str, Any]) -> dict[str, Any]:
    """The filter and the order, without what is not given."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    sort = given.pop("sort", None)
    if sort is not None and sort not in SORTS:
        raise InputRefused(f"images are sorted by {', '.join(SORTS)}, not by {str(sort)[:40]!r}")
    try:
        kept = ImageQuery.model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputRefused(f"the view's {first['loc'][0]} is not valid: {first['msg']}") from None
    return kept | ({"sort": sort} if sort else {})
