"""Which folders, hub ids and addresses a form may name: every path and URL from a browser is checked.

Allowed are values that are no location (empty, the embedded clinic), values of the form's presets, and
endpoints that an admin registered under the matching kind. Fields that hold locations are marked with
`dataengine.config.Location`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dataengine.config import Location
from dataengine.errors import ConfigRefused
from dataengine.records import Endpoint
from storage.workspace import Workspace

Leaf = TypeVar("Leaf")

LISTED = 5
"""Number of registered locations that an error message lists."""


@dataclass(frozen=True)
class Named:
    """A location, and the dotted path of its field."""

    field: str
    text: str
    mark: Location


def check_locations(workspace: Workspace, settings: BaseModel, presets: Iterable[BaseModel] = ()) -> None:
    """Raise `ConfigRefused`, naming field and value, unless a browser may name every location there."""
    known = registered(workspace)
    own = {(one.field, one.text) for preset in presets for one in named_in(preset)}
    for one in named_in(settings):
        if (one.field, one.text) not in own and not is_allowed(one.text, one.mark, known):
            raise ConfigRefused(refusal(one, known))


def is_allowed(text: str, mark: Location, known: Iterable[Endpoint]) -> bool:
    """Whether this is no location, or a registered one of the field's kind."""
    if not text or re.fullmatch(mark.harmless, text):
        return True
    return any(text == value for value, _ in suggestions(mark, known))


def suggestions(mark: Location, known: Iterable[Endpoint]) -> list[tuple[str, str]]:
    """Allowed values of such a field, with their names."""
    fitting = [one for one in known if one.kind == mark.kind]
    return [(f"{prefix}{one.location}", one.name) for one in fitting for prefix in mark.prefixes]


def offers(workspace: Workspace) -> Callable[[FieldInfo], list[tuple[str, str]]]:
    """For `ui.web.settings_form.form`: registered values of a field that holds a location."""
    known = registered(workspace)
    return lambda field: [one for mark in marks_of(field) for one in suggestions(mark, known)]


def named_in(settings: BaseModel, within: str = "") -> Iterator[Named]:
    """Every text in a marked field of the tree."""
    for name, field in type(settings).model_fields.items():
        path, value = f"{within}{name}", getattr(settings, name)
        for mark in marks_of(field):
            yield from (Named(path, text, mark) for text in leaves(value, str))
        for inner in leaves(value, BaseModel):
            yield from named_in(inner, f"{path}.")


def marks_of(field: FieldInfo) -> list[Location]:
    """The field's mark; [] if it holds no location."""
    return [one for one in field.metadata if isinstance(one, Location)]


def leaves(value: Any, kind: type[Leaf]) -> Iterator[Leaf]:
    """Everything of that kind in a value, through lists and tables."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one, kind)


def registered(workspace: Workspace) -> list[Endpoint]:
    """All that admins registered."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.endpoints.list()


def refusal(one: Named, known: Iterable[Endpoint]) -> str:
    """The error message."""
    if not one.mark.kind:
        return f"{one.field} is {one.text!r}: a browser cannot set this; use a command on the server"
    registered_values = [value for value, _ in suggestions(one.mark, known)]
    listed = ", ".join(registered_values[:LISTED]) or "none"
    return (
        f"{one.field} is {one.text!r}, which is not registered; an admin can register it under /admin, tab "
        f"Models and endpoints, as kind {one.mark.kind} (registered: {listed})"
    )
