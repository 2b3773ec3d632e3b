"""Load an object by its stored name, `module:attribute`."""

import importlib
from typing import Any

from dataengine.errors import ConfigRefused

MOVED = {"pipelines.tools:real_tools": "pipelines.runtime.models:real_models"}
"""Names that a worker can still be set up with, by a script or a service file of an older version. Rows hold
none: neither the catalog nor the queue stores a module's name."""


def import_object(spec: str) -> Any:
    """The object that "module:name" names, also by the name that it had before it moved."""
    module, _, name = MOVED.get(spec, spec).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigRefused(f"{spec!r} names no object of ours: {error}. Expected module:name.") from error
