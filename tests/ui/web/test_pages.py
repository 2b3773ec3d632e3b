"""Our own pages: every value escaped, every desk's page on one layout, the colours of classes as in masks."""

import re
from collections.abc import Callable
from pathlib import Path
from posixpath import normpath

import pytest
from fastapi.testclient import TestClient
from jinja2 import UndefinedError

from dataengine.masks import PALETTE
from ui.desks import DESKS
from ui.web.desk import Desk
from ui.web.pages import STATIC, UI, login_page, message_page, render

PAGES = [desk for desk in DESKS if desk.path and desk.mount_gradio is None]
MARKUP = '<b onclick="x">\'&'


def test_every_value_on_a_page_is_escaped() -> None:
    joined = render("study/join.html", study=MARKUP, token=MARKUP, participant=MARKUP, problem=MARKUP)
    for page in (login_page(MARKUP, MARKUP, MARKUP), message_page(MARKUP, MARKUP, 404), joined):
        text = bytes(page.body).decode()
        assert "<b onclick" not in text and "&lt;b onclick=&#34;x&#34;&gt;&#39;&amp;" in text


def test_a_page_without_one_of_its_values_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("web/pages/message.html", title="a title and no text")


@pytest.mark.parametrize("desk", PAGES, ids=lambda desk: desk.name)
def test_all_files_named_by_a_desks_page_are_served(desk: Desk, client_of: Callable[..., TestClient]) -> None:
    client = client_of("admin")
    page = client.get(desk.path, headers={"Accept": "text/html"})
    title = re.search("<title>(.+) · Artifact Clinic</title>", page.text)
    assert page.status_code == 200 and title and desk.title in title[1]
    named = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert "/static/style.css" in named and len(named) >= 4
    for address in named:
        assert client.get(address).status_code == 200, address


def test_every_module_that_a_script_imports_is_served(client_of: Callable[..., TestClient]) -> None:
    client, checked = client_of(), 0
    for script in Path(STATIC.parents[1]).glob("*/static/*.js"):
        folder = "" if script.parent == STATIC else f"{script.parents[1].name}/"
        for name in re.findall(r'from "([^"]+\.js)"', script.read_text()):
            address = normpath(f"/static/{folder}{name}")
            assert name.startswith(".") and address.startswith("/static/")
            assert client.get(address).status_code == 200, f"{script.name} imports {name}"
            checked += 1
    assert checked > 80


def test_the_class_colours_are_those_of_the_masks() -> None:
    found = re.findall(r"--class-\d: #(\w{6});", (STATIC / "style.css").read_text())
    assert [tuple(bytes.fromhex(one)) for one in found] == list(PALETTE)


OWN_FILES = [path for path in sorted(UI.rglob("*")) if path.suffix in (".html", ".js", ".css", ".py")]
ABSOLUTE = re.compile(
    r"""(?:href|src|action)="/(?!/)|from "/static|import\("/|fetch\(["`]/|\]\(/[a-z]|url\(["']?/[a-z]"""
    r"""|location\.(?:assign|replace)\(["`]/|\.(?:src|href) = ["`]/|new (?:Worker|EventSource)\(["`]/"""
)


def test_no_page_or_script_forgets_the_sub_path() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in OWN_FILES if "vendor" not in path.parts}
    assert len(sources) > 150
    found = [f"{path}: {one[0]}" for path, text in sources.items() for one in ABSOLUTE.finditer(text)]
    assert not found
    for forgotten in ('<a href="/curate">', 'import { h } from "/static/dom.js"', "fetch(`/api/x`)"):
        assert ABSOLUTE.search(forgotten)
