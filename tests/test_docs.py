"""The pages of docs/, the README and CONTRIBUTING name only what there is."""

import re
import shlex
from pathlib import Path

import pytest

from app import COMMANDS
from pipelines.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HISTORY = DOCS / "log.md"
"""Tells of what was, in the names of its time."""
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
CURRENT = [page for page in PAGES if page != HISTORY]
ROLES = ("annotators", "curators", "engineers", "admins")
OURS = "dataengine|storage|pipelines|ui|tests|docs"
PATH = re.compile(rf"(?<![\w/.-])(?:{OURS})/[\w./*-]*")
PLACEHOLDER = re.compile(r"\b(?:NAME|PART)\b")
FORMER_NAMES = ("doctor.md", "trainingfree.md", "storage/schema", "treatment/recipes", "pipelines/requests")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def unknown_paths(text: str) -> list[str]:
    """Paths below our folders that are not there; a word in capitals stands for a name of the reader's."""
    named = (found.rstrip(".") for found in PATH.findall(text))
    return [path for path in named if not PLACEHOLDER.search(path) and not list(ROOT.glob(path))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_and_images_exist(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!http)([^)#]+)(?:#([\w-]+))?\)", text):
        assert (page.parent / target).exists(), f"{page.name} leads to {target}, which is not there"
        lines = (page.parent / target).read_text() if anchor else ""
        headings = re.findall(r"^#+ (.+)$", lines, re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert not anchor or anchor in slugs, f"{page.name} leads to #{anchor} of {target}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_path_that_it_names_exists(page: Path) -> None:
    text = page.read_text()
    assert not unknown_paths(text)
    assert not [name for name in FORMER_NAMES if name in text]


def test_a_path_that_is_not_there_would_be_seen() -> None:
    text = (
        "`storage/schema/labels.py`, `pipelines/round.py`, `pipelines/stages/NAME.py` and build/bench/x.json."
    )
    assert unknown_paths(text) == ["storage/schema/labels.py"]


@pytest.mark.parametrize("name", ROLES)
def test_its_commands_are_ours(name: str) -> None:
    for line in re.findall(r"`clinic ([^`]+)`", (DOCS / f"{name}.md").read_text()):
        build_parser(COMMANDS).parse_args(shlex.split(line))


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_command_that_it_names_exists(page: Path) -> None:
    known = {command.name for command in COMMANDS}
    named = re.findall(r"(?:`|^ {4}|^)clinic ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    assert set(named) <= known, f"{page.name} names {sorted(set(named) - known)}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_its_benches_exist(page: Path) -> None:
    benches = {path.stem.replace("_", "-") for path in (ROOT / "tests/bench").glob("*.py")}
    named = set(re.findall(r"make bench-([a-z][a-z-]*)", page.read_text()))
    assert named <= benches, f"{page.name} names {sorted(named - benches)}"


def test_its_variables_are_read_somewhere() -> None:
    folders = ("dataengine", "storage", "pipelines", "ui", "tests")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    known = " ".join(path.read_text() for path in [ROOT / "compose.yaml", *code])
    for page in CURRENT:
        for variable in re.findall(r"CLINIC_[A-Z_]+", page.read_text()):
            assert variable in known, f"{page.name} names {variable}"


def test_the_architecture_page_tells_how_to_add_what_the_test_adds() -> None:
    part = (DOCS / "architecture.md").read_text().partition("## How to add")[2]
    things = re.findall(r"^\*\*An? (.+)\*\*$", part, re.MULTILINE)
    assert things == ["stage", "desk", "import format", "generator family", "objective"]
    assert re.findall(r"^(\d)\. ", part, re.MULTILINE) == list("12345") * len(things)
    tests = (ROOT / "tests/test_extending.py").read_text()
    assert all(re.search(rf"def test_an?_{thing.replace(' ', '_')}_is_", tests) for thing in things)
