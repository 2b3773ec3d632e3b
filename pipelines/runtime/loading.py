"""Load an object by its stored name, `module:attribute`."""

import importlib
from typing import Any

from dataengine.errors import ConfigRefused


def load(spec: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigRefused(f"{spec!r} names no object of ours: {error}. Expected module:name.") from error
