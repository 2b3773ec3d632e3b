"""axe-core's serious findings and the console's errors over every view of every desk, in both themes.

Gradio builds /admin and /gradio: what its own components leave is counted in the note, by rule.
"""

import tempfile
from collections import Counter
from pathlib import Path

from playwright.sync_api import sync_playwright

from storage.opening import create_workspace
from tests.bench.desks_pages import served
from tests.bench.harness import Figure, figure, quick
from tests.services import chromium_path
from tests.ui.accessibility import SERIOUS, Seen, walk
from tests.ui.browsing import FLAGS
from tests.ui.views import fill, views

FEW = ("sign-in", "home", "annotate", "curate-images", "train-new", "study-make")


def view_figures() -> list[Figure]:
    """Nodes with a serious or critical finding, errors of the console, and views wider than a phone."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = create_workspace(Path(folder) / "workspace")
        wanted = [view for view in views(fill(workspace)) if not quick() or view.name in FEW]
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with served(workspace) as (url, _):
            seen = list(walk(browser, url, wanted))
        browser.close()
        workspace.close()
    own = [one for one in seen if not one.view.gradio]
    kept = [one for one in seen if one.view.gradio]
    count = f"{len(seen)} views, light and dark"
    serious = [line for one in own for line in one.serious]
    errors = [line for one in seen for line in one.errors]
    wide = [one.view.name for one in seen if one.overflow > 0]
    note = f"{count}; Gradio's own components, not counted: {by_rule(kept) or 'none'}"
    return [
        figure("axe_serious", len(serious), None, "", len(seen), "; ".join([note, *serious[:5]])),
        figure("console_errors", len(errors), None, "", len(seen), "; ".join([count, *errors[:5]])),
        figure("views_wider_than_phone", len(wide), None, "", len(seen), "; ".join(["390 px", *wide])),
    ]


def by_rule(seen: list[Seen]) -> str:
    """The serious and critical nodes by rule, in words."""
    rules = Counter(
        node["rule"]
        for one in seen
        for nodes in one.nodes.values()
        for node in nodes
        if node["impact"] in SERIOUS
    )
    return ", ".join(f"{rule} {times}" for rule, times in rules.most_common())
