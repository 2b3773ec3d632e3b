"""The examples of docs/python.md run as they stand, in one folder as their reader has it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataengine
from dataengine.clinic.world import stream

PAGE = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
MOST_LINES = 8
TRAINING = ("Train a detector", "Treat a generator", "Repair an image")
"""These take longer, and the same calls are made by `tests/dataengine/api`."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with masks of the same names, and a file that is neither."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("pictures", "masks"):
        (folder / name).mkdir()
    for number in range(12):
        drawing = stream("benchmark")[number]
        Image.fromarray(drawing.image).save(folder / "pictures" / f"{number:02}.png")
        mask = (drawing.label_map > 0).astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / "masks" / f"{number:02}.png")
    return folder


@pytest.mark.parametrize(
    "title",
    [pytest.param(each, marks=pytest.mark.docs) if each in TRAINING else each for each in EXAMPLES],
)
def test_an_example_runs(
    title: str, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader)
    code = EXAMPLES[title]
    assert len(code.strip().splitlines()) <= MOST_LINES, "an example is a handful of lines"
    exec(compile(code, f"docs/python.md, {title}", "exec"), {})
    if "print(" in code:
        assert capsys.readouterr().out.strip()


def test_every_public_name_is_on_the_page_and_every_function_has_an_example() -> None:
    table = PAGE.partition("| name |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))) == set(
        dataengine.__all__
    )
    shown = "".join(EXAMPLES.values())
    functions = {"diagnose", "repair", "train_detector", "treat", "Detector", "Generator"}
    assert not [name for name in functions if f"{name}(" not in shown and f"{name}.load(" not in shown]
