"""Load an object by its stored name, `module:attribute`."""

import importlib
from typing import Any

from dataengine.errors import ConfigRefused

MOVED = {"pipelines.tools:real_tools": "pipelines.runtime.models:real_models"}
"""Former names that scripts and service files of older versions may still pass to a worker. Neither the
catalog nor the queue stores module names."""


def import_object(spec: str) -> Any:
    """The object that "module:name" names; former names in `MOVED` work too. Raises `ConfigRefused`."""
    module, _, name = MOVED.get(spec, spec).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigRefused(f"{spec!r} names no object of ours: {error}. Expected module:name.") from error
