"""Which folders, hub ids and addresses a form may name: no path or URL from a browser goes unchecked.

Allowed is what is no location (nothing, the embedded clinic), what a preset of the form holds by itself, and
what an admin registered under the kind that fits. Fields that lead somewhere are marked with
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
"""Registered locations that a refusal names."""


@dataclass(frozen=True)
class Named:
    """A text that leads somewhere, and the dotted path of the field that holds it."""

    field: str
    text: str
    mark: Location


def check_locations(workspace: Workspace, settings: BaseModel, presets: Iterable[BaseModel] = ()) -> None:
    """Raise `ConfigRefused`, naming field and value, unless a browser may name every location there."""
    known = registered(workspace)
    own = {(one.field, one.text) for preset in presets for one in named_in(preset)}
    for one in named_in(settings):
        if (one.field, one.text) not in own and not may_stand(one.text, one.mark, known):
            raise ConfigRefused(refusal(one, known))


def may_stand(text: str, mark: Location, known: Iterable[Endpoint]) -> bool:
    """Whether this is no location, or a registered one of the field's kind."""
    if not text or re.fullmatch(mark.harmless, text):
        return True
    return any(text == value for value, _ in suggestions(mark, known))


def suggestions(mark: Location, known: Iterable[Endpoint]) -> list[tuple[str, str]]:
    """What may stand in such a field, and what it is called."""
    fitting = [one for one in known if one.kind == mark.kind]
    return [(f"{prefix}{one.location}", one.name) for one in fitting for prefix in mark.prefixes]


def offers(workspace: Workspace) -> Callable[[FieldInfo], list[tuple[str, str]]]:
    """For `ui.web.settings_form.form`: what admins registered for a field that leads somewhere."""
    known = registered(workspace)
    return lambda field: [one for mark in marks_of(field) for one in suggestions(mark, known)]


def named_in(settings: BaseModel, within: str = "") -> Iterator[Named]:
    """Every text of the tree in a field that is marked."""
    for name, field in type(settings).model_fields.items():
        path, value = f"{within}{name}", getattr(settings, name)
        for mark in marks_of(field):
            yield from (Named(path, text, mark) for text in leaves(value, str))
        for inner in leaves(value, BaseModel):
            yield from named_in(inner, f"{path}.")


def marks_of(field: FieldInfo) -> list[Location]:
    """The field's mark, [] where it leads nowhere."""
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
    """What is wrong, and what to do."""
    if not one.mark.kind:
        return f"{one.field} is {one.text!r}: a browser cannot set this; use a command on the server"
    there = [value for value, _ in suggestions(one.mark, known)]
    told = f"registered are {', '.join(there[:LISTED])}" if there else "none is registered yet"
    return (
        f"{one.field} is {one.text!r}, which nobody registered: an admin registers it on /admin, tab Models "
        f"and endpoints, as kind {one.mark.kind}; {told}"
    )
