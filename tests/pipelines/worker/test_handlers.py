"""Handlers by kind of job."""

import inspect

import pytest

from pipelines.runtime.loading import import_object
from pipelines.worker.handlers import MODULES


@pytest.mark.parametrize("kind", MODULES)
def test_a_deferred_handler_exists_and_takes_a_context_and_arguments(kind: str) -> None:
    assert list(inspect.signature(import_object(MODULES[kind])).parameters) == ["context", "args"]
