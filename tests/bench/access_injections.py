"""Markup and formulas in every text of a workspace: every page opened in a browser, every table exported.

The texts are written into the catalog itself, so that no check at a door protects the pages. A text counts as
live if a script of it runs, if markup of it becomes an element, if it becomes an address that runs a script,
or if a cell of a table begins as a formula. Controls in the same run: a page that shows the texts unescaped,
and a table written plainly.
"""

import csv
import io
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as Failed
from sqlalchemy import select, update

import app
from dataengine.csv_files import FORMULA
from storage import tables
from storage.maintenance.erase_rows import column_of
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.harness import Figure, figure
from tests.services import chromium_path
from tests.ui.browsing import FLAGS, PASSWORD
from tests.ui.views import View, context_of, fill, show, views
from ui.server import background

MARK = "clinic-live"
SCRIPTS = (
    f'"><img src=x class={MARK} onerror="clinicHit()">',
    f"<script class={MARK}>clinicHit()</script>",
    f"<svg class={MARK} onload=clinicHit()>",
    f"'><iframe class={MARK} srcdoc='<script>parent.clinicHit()</script>'></iframe>",
    f"</textarea></title><b class={MARK}>b</b>",
    f"[a](javascript:clinicHit('{MARK}'))",
    f"<a class={MARK} href=javascript:clinicHit()>a</a>",
    "{{constructor.constructor('clinicHit()')()}}${clinicHit()}",
    f"<style class={MARK}>*{{display:none}}</style>",
)
FORMULAS = (
    f'=HYPERLINK("http://x","{MARK}")',
    f"+{MARK}",
    f"-{MARK}",
    f"@{MARK}",
    f"\t={MARK}",
    f"\r={MARK}",
)
FIELDS = (
    "api_tokens.name",
    "audit_events.subject",
    "benchmarks.name",
    "comments.text",
    "detectors.name",
    "detectors.licence",
    "endpoints.name",
    "endpoints.location",
    "generators.name",
    "generators.licence",
    "generators.location",
    "images.category",
    "images.licence",
    "images.prompt",
    "image_tags.tag",
    "jobs.error",
    "jobs.failure",
    "jobs.message",
    "label_classes.name",
    "labels.note",
    "pilots.name",
    "prompts.text",
    "queue_answers.reason",
    "queue_items.reason",
    "reviews.note",
    "rounds.message",
    "saved_views.name",
    "sessions.client",
    "studies.name",
    "studies.created_by",
    "workers.host",
)
"""Every column of free text that a page or an export shows."""
FEW = ("home", "account", "curate-images", "curate-large", "admin-people", "study-results")
LIVE = f"""() => [
  window.clinicHits || 0,
  document.querySelectorAll('.{MARK}').length,
  document.querySelectorAll('[href^="javascript:" i], [src^="javascript:" i]').length,
]"""
HIT = "window.clinicHits = 0; window.clinicHit = () => { window.clinicHits += 1; };"
TABLES = (
    "/api/admin/audit.csv",
    "/api/studies/judged/results.csv",
    "/api/studies/judged/votes.csv",
    "/api/studies/open/sheet.zip?rater=ann",
    "/api/rounds/lineage/treated/labels.csv",
    "/api/train/detectors/d1/curves.csv",
    "/api/treat/treatments/t1/curves.csv",
    "/api/train/runs/retrained/curves.csv",
)
EXPORTS = ("folder", "masks", "coco", "yolo", "predictions")


def figures(quick: bool) -> list[Figure]:
    """`injections_tried` and `injections`. Raises `RuntimeError` where a control fails."""
    control_of_tables()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        workspace = create_workspace(Path(folder) / "workspace")
        first = fill(workspace)
        give_rows(workspace, first)
        tried = poison(workspace)
        control_of_pages(browser)
        with background(workspace) as where:
            chosen = [view for view in views(first) if not quick or view.name in FEW]
            pages = list(opened(browser, where.url, chosen))
            downloads = list(downloaded(where.url))
        exported = list(written(workspace, Path(folder)))
        browser.close()
        workspace.close()
    shown = [name for name, _, live in pages if live]
    formulas = [f"{name}: {cell!r}" for name, text in [*downloads, *exported] for cell in live_cells(text)]
    for line in [*shown, *formulas][:20]:
        print(f"  live: {line}")
    seen = sum(found for _, found, _ in pages)
    note = (
        f"{len(FIELDS)} columns; {len(pages)} pages, which showed them {seen} times; "
        f"{len(downloads) + len(exported)} tables"
    )
    if not seen or not any(MARK in text for _, text in [*downloads, *exported]):
        raise RuntimeError("no page or no table showed any of the texts, so the figures mean nothing")
    return [
        figure("injections_tried", tried, unit="texts", n=tried, note=note),
        figure("injections", len(shown) + len(formulas), unit="texts", n=tried),
    ]


def give_rows(workspace: Workspace, image: str) -> None:
    """A row in tables that the workspace of all views leaves empty."""
    from dataengine.records import Endpoint, SavedView
    from pipelines.services.admin.tokens import create_token

    create_token(workspace, "admin", "x", ["admin"], 1, "admin")
    with workspace.catalog() as catalog:
        catalog.tags.add([tables.images.c.id == image], ["x"])
        catalog.saved_views.add(SavedView(id="v", name="x", owner="admin", shared=True, query={}))
        catalog.comments.add(image, "admin", "x")
        catalog.endpoints.add(Endpoint(id="e", kind="vqa", name="x", location="http://127.0.0.1:9"))
        catalog.commit()


def poison(workspace: Workspace) -> int:
    """Write the texts into every row of every field; returns how many texts, each in its field."""
    tried, place = 0, 0
    with workspace.catalog() as catalog:
        for name in FIELDS:
            column = column_of(name)
            key = list(column.table.primary_key)
            rows = catalog.connection.execute(select(*key)).all()
            for row in rows:
                start = FORMULAS[place % len(FORMULAS)]
                text = f"{start} {place} {' '.join(SCRIPTS)}"
                same = [one == value for one, value in zip(key, row, strict=True)]
                catalog.connection.execute(update(column.table).where(*same).values({column: text}))
                place += 1
                tried += 1 + len(SCRIPTS)
        catalog.commit()
    return tried


def opened(browser: Browser, url: str, chosen: list[View]) -> Iterator[tuple[str, int, bool]]:
    """Each page: its name, how often it shows a text, and whether one is live in it."""
    for user in dict.fromkeys(view.user for view in chosen):
        context = context_of(browser, url, user)
        context.add_init_script(HIT)
        for view in (one for one in chosen if one.user == user):
            yield looked_at(context, url, view)
        context.close()


def looked_at(context: BrowserContext, url: str, view: View) -> tuple[str, int, bool]:
    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    try:
        show(page, url, view, 20_000)
        page.wait_for_timeout(300)
    except Failed:
        print(f"  {view.name} did not open fully; what it shows is looked at all the same")
    live, found = is_live(page) or bool(dialogs), page.content().count(MARK)
    page.close()
    return view.name, found, live


def is_live(page: Page) -> bool:
    """Whether a text ran, became an element, or an address that runs."""
    return any(page.evaluate(LIVE))


def control_of_pages(browser: Browser) -> None:
    """Raise `RuntimeError` unless every script text is found live on a page that does not escape it."""
    for text in SCRIPTS:
        if MARK not in text or text.startswith(("[a]", "{{")):
            continue  # only a renderer of Markdown or a template engine makes anything of these
        page = browser.new_page()
        page.add_init_script(HIT)
        page.goto("about:blank")
        page.set_content(f"<main>{text}</main>")
        page.wait_for_timeout(50)
        live = is_live(page)
        page.close()
        if not live:
            raise RuntimeError(f"{text!r} was not seen on an unescaped page, so the figures mean nothing")


def control_of_tables() -> None:
    """Raise `RuntimeError` unless every formula is found in a plainly written table."""
    text = io.StringIO()
    csv.writer(text).writerows([[one] for one in FORMULAS])
    if len(list(live_cells(text.getvalue()))) != len(FORMULAS):
        raise RuntimeError("formulas in a plain table were not seen, so the figures mean nothing")


def live_cells(text: str) -> Iterator[str]:
    """The cells of a table that a spreadsheet would evaluate and that hold a text of ours."""
    for row in csv.reader(io.StringIO(text, newline="")):
        yield from (cell for cell in row if MARK in cell and cell.startswith(FORMULA))


def downloaded(url: str) -> Iterator[tuple[str, str]]:
    """Each table that the server offers, with its text."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.post("/api/login", json={"name": "admin", "password": PASSWORD}).raise_for_status()
        for path in TABLES:
            answer = client.get(path)
            if answer.status_code != 200:
                print(f"  {path}: {answer.status_code}, left out")
            elif ".zip" in path:
                yield from tables_in(path, answer.content)
            else:
                yield path, answer.text


def tables_in(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for each in archive.namelist():
            if each.endswith(".csv"):
                yield f"{name}/{each}", archive.read(each).decode()


def written(workspace: Workspace, folder: Path) -> Iterator[tuple[str, str]]:
    """Each table that `clinic export` writes, with its text."""
    for format in EXPORTS:
        target = folder / f"export-{format}"
        words: list[Any] = ["--workspace", str(workspace.path), "export", str(target), "--format", format]
        if app.main(words):
            print(f"  clinic export --format {format} failed, left out")
        for path in sorted(target.rglob("*.csv")):
            yield re.sub(r".*/export-", "export-", str(path)), path.read_text()
