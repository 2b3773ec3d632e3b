"""Objects by their stored names, today's and older ones."""

import pytest

from dataengine.errors import ConfigRefused
from pipelines.round import ROUND
from pipelines.runtime.loading import MOVED, import_object
from pipelines.runtime.models import real_models


def test_names_of_before_the_move_mean_what_they_meant() -> None:
    assert import_object("pipelines.tools:real_tools") is real_models
    assert import_object("pipelines.round:ROUND") is ROUND, "never moved"
    assert all(import_object(new) is import_object(old) for old, new in MOVED.items())


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="module:name"):
        import_object("pipelines.tools:imaginary")
