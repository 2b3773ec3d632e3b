"""The README's commands exist and do what it says; the quick ones are run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import COMMANDS
from pipelines.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
LINES = [line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.split("#")[0].strip()]
CLINIC = [line for line in LINES if line.startswith("clinic ")]
LONG = ("clinic round", "clinic app")  # the loop and the server have tests of their own


def test_every_command_of_the_readme_is_understood() -> None:
    assert len(CLINIC) >= 5
    for line in CLINIC:
        build_parser(COMMANDS).parse_args(shlex.split(line)[1:])


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+)(?:%)?:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`?make (?:PYTHON=\S+ )?([a-z]+)", README)
    assert {"demo", "app", "test", "check"} <= set(named) <= targets | {"bench"}


def test_the_tree_names_every_folder_and_every_room() -> None:
    tree = re.search(r"```\napp\.py.*?```", README, re.DOTALL)
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: some images, a table of prompts, a workspace."""
    base = tmp_path_factory.mktemp("reader")
    (base / "pictures").mkdir()
    rows = ["file_name,prompt,seed"]
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(base / "pictures" / f"{seed}.png")
        rows.append(f"{seed}.png,a hand number {seed},{seed}")
    (base / "prompts.csv").write_text("\n".join(rows) + "\n")
    return base


@pytest.mark.parametrize("line", [line for line in CLINIC if not line.startswith(LONG)])
def test_quick_commands_run_as_they_stand(line: str, folder: Path) -> None:
    program = "import sys, app; sys.exit(app.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *shlex.split(line)[1:]],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        input="correct horse battery\ncorrect horse battery\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
