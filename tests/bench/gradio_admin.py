"""The admin page's part of `make bench-gradio`: how soon a browser that knows the page shows the accounts."""

import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from storage.accounts import create_user
from storage.opening import create_workspace
from tests.bench.annotate_server import PASSWORD
from tests.bench.desks_pages import PATIENCE_MS, served, signed_in
from tests.bench.harness import Figure, bootstrap, figure
from tests.services import chromium_path
from tests.ui.browsing import FLAGS

ROW = '[data-testid^="cell-"]:visible:has-text("ada")'
"""The admin's own row in the table of accounts, which comes from the server with the page's first request."""


def figures(quick: bool) -> list[Figure]:
    """`admin_warm_s`: seconds from the request for /admin until the first row is visible, with the files of
    an earlier load in the browser's cache. The median of 25 loads, real Chromium, the server in a process of
    its own.
    """
    loads = 3 if quick else 25
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = create_workspace(Path(folder) / "workspace")
        with workspace.catalog() as catalog:
            create_user(catalog, "ada", PASSWORD, ["admin"], "bench")
            catalog.commit()
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with served(workspace) as (url, _):
            page = signed_in(browser, url).new_page()
            cold = load_seconds(page, url)
            times = [load_seconds(page, url) for _ in range(loads)]
        browser.close()
        workspace.close()
    interval = bootstrap(times, lambda drawn: float(np.median(drawn)))
    note = f"the first load of this server and browser took {cold:.2f} s"
    return [figure("admin_warm_s", float(np.median(times)), interval, "s", loads, note)]


def load_seconds(page: Page, url: str) -> float:
    """Time from the request for the page until its first row is visible."""
    began = time.perf_counter()
    page.goto(f"{url}/admin", wait_until="commit")
    page.wait_for_selector(ROW, timeout=PATIENCE_MS)
    return time.perf_counter() - began
