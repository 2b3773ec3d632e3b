"""Images at several strengths of a LoRA, on a tiny FLUX."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.loading import load_family
from pipelines.generators import strengths
from pipelines.runtime.context import Context
from pipelines.runtime.models import Models
from tests.dataengine.treatment import tiny


def test_without_strength_the_images_are_those_of_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sampling = tiny.flux(tmp_path / "flux"), SamplingConfig(steps=2, batch=2)
    family = load_family(folder)
    base = Models().generate(family, tiny.PROMPTS[:2], [0, 1], sampling)
    family.adapter.add(LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for weight in family.adapter.parameters().values():
            weight += 0.2
    trained = Models().generate(family, tiny.PROMPTS[:2], [0, 1], sampling)
    monkeypatch.setattr(strengths, "open_generator", lambda context, version: family)
    any_version: Any = None
    context = Context(any_version, Models())
    found = strengths.draw_strengths(context, any_version, tiny.PROMPTS[:2], sampling)
    assert list(found) == [0.0, 0.5, 1.0, 1.5]
    assert np.array_equal(found[0.0], base) and np.array_equal(found[1.0], trained)
    assert not np.array_equal(found[1.5], trained) and not np.array_equal(found[0.5], base)
