"""The examples of docs/integrations.md run as written, on a tiny pipeline and the shipped detector."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.clinic.parts import materialise
from tests.dataengine.treatment.families.tiny_pipelines import tiny_pipeline

PAGE = Path(__file__).resolve().parents[3] / "docs" / "integrations.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    materialise("first_doctor", tmp_path / "my-detector")
    monkeypatch.chdir(tmp_path)
    images = np.full((2, 32, 32, 3), 128, np.uint8)
    names: dict[str, Any] = {
        "pipeline": tiny_pipeline("StableDiffusion3Pipeline"),
        "images": images,
        "prompts": ["a hand", "a face"],
    }
    for block in blocks:
        exec(block, names)
    assert names["image"].size == (32, 32) and len(names["watch"].confidence) == 1
    assert names["rewards"].shape == (2,) and names["ddpo_reward"](images, [], [])[1] == {}
