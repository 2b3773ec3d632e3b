"""The README: what its first screen shows, how long it is, and that its Python and its targets exist.

Its commands are tested with those of the other pages, in `tests/docs`.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dataengine

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
WORDS_A_MINUTE = 238
"""Of silent reading (Brysbaert 2019)."""


def test_it_is_read_in_four_minutes() -> None:
    prose = re.sub(r"<[^>]+>|\]\([^)]*\)|```\w*", " ", README)
    assert len(prose.split()) <= 4 * WORDS_A_MINUTE


def test_the_first_screen_has_the_strip_two_measured_sentences_and_the_commands_in_order() -> None:
    first, own = README.index("## Try it"), README.index("## On your own images")
    screen = README[:first]
    assert screen.index("docs/images/before-after.png") < screen.index("\n- **")
    sentences = re.findall(r"^- (.+)$", screen, re.MULTILINE)
    assert len(sentences) == 2
    for sentence in sentences:
        assert re.search(r"\d\.\d+ (?:times|\()", sentence) and re.search(r"\d images|\d pairs", sentence)
        assert "seed" in sentence and "](docs/" in sentence, "a figure stands with its limits and its source"
    assert re.findall(r"^(make \w+)", README[first:own], re.MULTILINE) == ["make demo", "make test"]
    block = re.search(r"```sh\n(.*?)```", README[own:], re.DOTALL)
    assert block and len(block[1].strip().splitlines()) == 5


def test_the_strip_shows_before_map_and_after() -> None:
    with Image.open(ROOT / "docs/images/before-after.png") as strip:
        assert 2 < strip.width / strip.height < 3.5 and strip.width >= 800


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+)(?:%)?:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`?make (?:PYTHON=\S+ )?([a-z]+)", README)
    assert {"demo", "app", "test"} <= set(named) <= targets | {"bench"}


@pytest.mark.docs
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    signature, called = inspect.signature(dataengine.treat), []

    def treat(*given: Any, **named: Any) -> None:
        called.append(signature.bind(*given, **named))

    # A treatment of a hundred updates takes minutes; `tests/dataengine/api` runs one.
    monkeypatch.setattr(dataengine, "treat", treat)
    exec(compile(code[1], "README.md", "exec"), {})
    assert len(called) == 1


def test_the_tree_of_the_architecture_names_every_folder_and_every_room() -> None:
    tree = re.search(r"```\napp\.py.*?```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert tree
    top, named = "", set()
    for indent, name, caption in re.findall(r"^( *)([a-z_]+(?:/|\.py)) +(\S.*)$", tree[0], re.MULTILINE):
        top = "" if not indent else top
        named.add(top + name)
        top = top or name
        assert len(caption) > 5, f"{name} has no caption"
    folders = {f"{each.parent.name}/" for each in ROOT.glob("*/__init__.py")} | {"docs/"}
    rooms = {
        f"{each.parent.relative_to(ROOT)}/"
        for top in folders - {"tests/"}
        for each in ROOT.glob(f"{top}*/__init__.py")
    }
    assert named == rooms | folders | {"app.py"}
