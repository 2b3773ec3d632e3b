"""A form generated from a configuration's fields: label, unit, help, limits and value of each.

    fields = form(TrainingRun, settings)  # JSON for ui/runs/static/form.js, which returns the same nesting

The docstring under a field is its help; its type and limits decide the control, and `offers` gives
suggestions.
"""

import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ui.web.setting_labels import VALUES, label_of

NONE = type(None)
NULL = re.compile(r"\bnull\b")
"""How a field's docstring calls what a form shows as an empty field."""

Offers = Callable[[FieldInfo], list[tuple[str, str]]]
"""A field's suggestions: value and name."""


def nothing(field: FieldInfo) -> list[tuple[str, str]]:
    """No suggestions."""
    return []


def form(kind: type[BaseModel], values: Mapping[str, Any], offers: Offers = nothing) -> list[dict[str, Any]]:
    """The fields of `kind` in order, with `values` (as `model_dump(mode="json")` gives them) filled in."""
    return [
        asked(name, field, values.get(name, default_of(field)), offers, kind.__name__)
        for name, field in kind.model_fields.items()
    ]


def asked(name: str, field: FieldInfo, value: Any, offers: Offers = nothing, of: str = "") -> dict[str, Any]:
    """One field of the settings class named `of`: name, label, unit, help, control, and value."""
    inner, optional = without_none(field.annotation)
    label, unit = label_of(of, name)
    return {
        "name": name,
        "label": label,
        **({"unit": unit} if unit else {}),
        **({"texts": texts} if (texts := VALUES.get(f"{of}.{name}")) else {}),
        "help": NULL.sub("empty", " ".join((field.description or "").split())),
        "optional": optional,
        "value": value,
        **way(inner, field, value, offers),
        **({"suggestions": offered} if (offered := offers(field)) else {}),
    }


def way(kind: Any, field: FieldInfo, value: Any, offers: Offers = nothing) -> dict[str, Any]:
    """The control for a type: `kind` and its parameters."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {"kind": "group", "fields": form(kind, value or blank(kind), offers)}
    if origin is Literal:
        return {"kind": "choice", "options": list(parts)}
    if kind is bool:
        return {"kind": "switch"}
    if kind in (int, float):
        return {"kind": "number", "whole": kind is int, **limits(field)}
    if kind is str:
        return {"kind": "text"}
    if origin is tuple and parts == (float, float):
        return {"kind": "pair"}
    if origin is tuple and parts[-1] is Ellipsis:
        if parts[0] is str:
            return {"kind": "words"}
        if get_origin(parts[0]) is Literal:
            return {"kind": "several", "options": list(get_args(parts[0]))}
        if isinstance(parts[0], type) and issubclass(parts[0], BaseModel):
            rows = [form(parts[0], row, offers) for row in value or ()]
            return {"kind": "list", "rows": rows, "fields": form(parts[0], blank(parts[0]), offers)}
    if origin is dict and get_origin(parts[0]) is Literal and parts[1] is float:
        return {"kind": "shares", "options": list(get_args(parts[0]))}
    return {"kind": "json"}


def without_none(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was allowed."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    kept = [part for part in get_args(kind) if part is not NONE]
    return (kept[0], True) if len(kept) == 1 else (kind, True)


def limits(field: FieldInfo) -> dict[str, float]:
    """Lowest and highest value, and whether the limits themselves are excluded."""
    found: dict[str, Any] = {}
    for rule in field.metadata:
        if isinstance(rule, Ge | Gt):
            found |= {"low": rule.ge if isinstance(rule, Ge) else rule.gt, "above": isinstance(rule, Gt)}
        if isinstance(rule, Le | Lt):
            found |= {"high": rule.le if isinstance(rule, Le) else rule.lt, "below": isinstance(rule, Lt)}
    return found


def default_of(field: FieldInfo) -> Any:
    """The field's default as JSON, None where it has none."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def blank(kind: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a group that is switched off; required fields are left out."""
    return {name: default_of(field) for name, field in kind.model_fields.items() if not field.is_required()}
