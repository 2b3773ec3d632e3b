"""Treat: a new generator version that a fresh pipeline can use, or none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dataengine.errors import Corrupt
from pipelines.runtime.context import Context
from pipelines.stages.treat import treat
from tests import fakes
from tests.fakes import with_methods
from tests.pipelines.conftest import Played, play


def test_registers_base_plus_lora_with_its_lineage(played: Played) -> None:
    result = played.results["treat"]
    with played.context.workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(result["treated"])
        treatment = catalog.treatments.get(result["treatment"])
    assert (treated.parent, treated.location, treated.treatment_id) == ("squares", "squares", treatment.id)
    assert treatment.detector_id == played.results["promote"]["champion"]
    assert (played.context.workspace.checkpoints.fetch(treated.lora or "") / "treated.json").is_file()
    assert len(result["curve"]) == result["updates"]


def test_again_treats_nothing(played: Played) -> None:
    models = with_methods(played.context.models, treat=None)
    assert treat(Context(played.context.workspace, models), played.round_id) == played.results["treat"]


def ready(fresh: tuple[Context, str], **models: Any) -> tuple[Context, str]:
    context, round_id = fresh
    play(context, round_id, until="treat")
    return Context(context.workspace, with_methods(context.models, **models)), round_id


def test_nothing_kept_registers_nothing(fresh: tuple[Context, str]) -> None:
    def kept_nothing(*arguments: Any, **watched: Any) -> Any:
        return replace(
            fakes.treat(*arguments, **watched), kept_step=0, stopped_reason="the quality guard stopped"
        )

    context, round_id = ready(fresh, treat=kept_nothing)
    assert treat(context, round_id)["treated"] is None
    with context.workspace.catalog(read_only=True) as catalog:
        assert [each.id for each in catalog.generators.list()] == ["squares"]


def test_a_lora_that_draws_otherwise_afresh_is_refused(fresh: tuple[Context, str]) -> None:
    def generate(family: Any, prompts: Any, seeds: Any, settings: Any) -> np.ndarray:
        return fakes.generate(family, prompts, seeds, settings) // (
            2 if getattr(family, "saved", False) else 1
        )

    def opened(location: str, lora: Any, weights: Any) -> Any:
        family = fakes.TinyGenerator(treated=lora is not None)
        family.saved = lora is not None  # type: ignore[attr-defined]
        return family

    context, round_id = ready(fresh, generate=generate, open_generator=opened)
    with pytest.raises(Corrupt, match="generates other images in a fresh pipeline"):
        treat(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        assert [each.id for each in catalog.generators.list()] == ["squares"]
