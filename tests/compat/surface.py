"""What the outside can name: commands, settings, routes, keys of JSON answers, as plain data to compare.

Knows no module of ours, so that the same walk runs over the code of another commit.
"""

import argparse
from collections.abc import Iterator
from typing import Any, get_args

PLACEHOLDER = "{workspace}"
"""Stands for the workspace's own folder in a stored catalog."""
KEEPER, PASSWORD = "keeper", "correct horse battery"
"""The account of the stored workspace "finished", which has every role."""
ORIGIN = "http://127.0.0.1:7860"
DEPTH = 3
"""Levels of keys that `keys_of` descends into an answer."""


def commands_of(parser: argparse.ArgumentParser, name: str = "clinic") -> dict[str, list[str]]:
    """Each command and action, such as "clinic study open", with its options and positional arguments."""
    names: list[str] = []
    below: dict[str, list[str]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice, each in action.choices.items():
                below |= commands_of(each, f"{name} {choice}")
        else:
            options = action.option_strings or [action.dest]
            values = [f"{options[-1]}={value}" for value in action.choices or ()]
            names += [*options, *values]
    return {name: sorted(names)} | below


def settings_of(model: Any, prefix: str = "") -> dict[str, Any]:
    """The dotted paths of a pydantic model's fields with their defaults, None where a value is required.

    A section that is null by default is walked as well: `a`, then `a?.b`.
    """
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        sections = [each for each in get_args(field.annotation) if hasattr(each, "model_fields")]
        if hasattr(type(default), "model_fields"):
            found |= settings_of(type(default), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = default
            if default is None and len(sections) == 1:
                found |= settings_of(sections[0], f"{prefix}{name}?.")
    return found


def leaves_of(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted paths of nested settings with their values; lists and empty sections are values."""
    for name, each in value.items():
        if isinstance(each, dict) and each:
            yield from leaves_of(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", each


def routes_of(app: Any) -> dict[str, list[str]]:
    """Each "METHOD /path" of a FastAPI application with the names that it reads from query, path and body."""
    schema = app.openapi()
    routes = {f"MOUNT {route.path}": [] for route in app.routes if type(route).__name__ == "Mount"}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            names = [each["name"] for each in operation.get("parameters", ())]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                names += _fields(content["schema"], schema)
            routes[f"{method.upper()} {path}"] = sorted(names)
    return routes


def keys_of(answer: Any, depth: int = DEPTH, prefix: str = "") -> set[str]:
    """The dotted keys of a JSON answer, of a list's first element where there is one (`images[].id`)."""
    if isinstance(answer, list):
        return keys_of(answer[0], depth, f"{prefix}[]") if answer else set()
    if not isinstance(answer, dict) or not depth:
        return set()
    keys: set[str] = set()
    for name, value in answer.items():
        path = f"{prefix}.{name}".lstrip(".")
        keys |= {path} | keys_of(value, depth - 1, path)
    return keys


def _fields(schema: dict[str, Any], whole: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted field names of a request's body."""
    if "$ref" in schema:
        schema = whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    names: list[str] = []
    for name, each in schema.get("properties", {}).items():
        names.append(prefix + name)
        for part in (each, each.get("items", {}), *each.get("anyOf", ())):
            if "$ref" in part:
                names += _fields(part, whole, f"{prefix}{name}.")
    return names
