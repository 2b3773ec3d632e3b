"""The pages for annotators, curators, engineers and admins name only what there is."""

import re
import shlex
from pathlib import Path

import pytest

from app import COMMANDS
from pipelines.cli.main import parser

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("annotators", "curators", "engineers", "admins")


@pytest.mark.parametrize("name", PAGES)
def test_its_links_and_pictures_exist(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text()
    for target, anchor in re.findall(r"\]\((?!http)([^)#]+)(?:#([\w-]+))?\)", text):
        assert (DOCS / target).exists(), f"{name}.md leads to {target}, which is not there"
        headings = re.findall(r"^#+ (.+)$", (DOCS / target).read_text(), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert not anchor or anchor in slugs, f"{name}.md leads to #{anchor} of {target}"


@pytest.mark.parametrize("name", PAGES)
def test_its_commands_are_ours(name: str) -> None:
    for line in re.findall(r"`clinic ([^`]+)`", (DOCS / f"{name}.md").read_text()):
        parser(COMMANDS).parse_args(shlex.split(line))


def test_its_variables_are_read_somewhere() -> None:
    root = DOCS.parent
    code = [path for folder in ("storage", "pipelines", "ui") for path in (root / folder).rglob("*.py")]
    sources = [root / "compose.yaml", *code]
    known = " ".join(path.read_text() for path in sources)
    for name in PAGES:
        for variable in re.findall(r"CLINIC_[A-Z_]+", (DOCS / f"{name}.md").read_text()):
            assert variable in known, f"{name}.md names {variable}"
