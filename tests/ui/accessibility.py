"""What axe-core, the console and the width of a page say about a view.

axe-core (Deque, MPL-2.0) lies in `vendor/` and is never part of the product.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize
from playwright.sync_api import Error as Failed

from tests.ui.views import View, context_of, show

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RUN = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  return found.violations.flatMap(({ id, impact, nodes }) => nodes.map(({ html, target, failureSummary }) =>
    ({ rule: id, impact, html: html.slice(0, 200), target: target.flat().join(" "), why: failureSummary })));
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SERIOUS = ("serious", "critical")
PHONE: ViewportSize = {"width": 390, "height": 844}
SETTLED_MS = 200
GRADIO_FADES_MS = 600
"""Until Gradio's buttons have faded to the colours of another theme."""
Scheme = Literal["light", "dark"]


@dataclass
class Seen:
    """What was found on a view: nodes against axe-core's rules by theme, console errors, and the pixels that
    the page is wider than a phone."""

    view: View
    nodes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    overflow: int = 0

    @property
    def serious(self) -> list[str]:
        """The serious and critical nodes, one line each."""
        return [
            f"{self.view.name} ({scheme}): {node['rule']} at {node['target']}: {node['html']}"
            for scheme, nodes in self.nodes.items()
            for node in nodes
            if node["impact"] in SERIOUS
        ]


def nodes_of(page: Page) -> list[dict[str, Any]]:
    """Every node of the page that breaks one of axe-core's rules."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    return list(page.evaluate(RUN))


def walk(
    browser: Browser,
    url: str,
    views: Iterable[View],
    schemes: Sequence[Scheme] = ("light", "dark"),
    look: Callable[[Page, View, str], None] = lambda page, view, what: None,
) -> Iterator[Seen]:
    """Open every view once, as who may see it, and check it in every theme and on a phone.

    `look` gets the page, its view, and the theme or "phone".
    """
    wanted = list(views)
    for user in dict.fromkeys(view.user for view in wanted):
        context = context_of(browser, url, user)
        for view in (one for one in wanted if one.user == user):
            page, seen = context.new_page(), Seen(view)
            listen(page, seen)
            try:
                show(page, url, view)
                for scheme in schemes:
                    page.emulate_media(color_scheme=scheme)
                    page.wait_for_timeout(GRADIO_FADES_MS if view.gradio else 0)
                    look(page, view, scheme)
                    seen.nodes[scheme] = nodes_of(page)
                page.set_viewport_size(PHONE)
                page.wait_for_timeout(SETTLED_MS)
                look(page, view, "phone")
                seen.overflow = page.evaluate(OVERFLOW)
            except Failed as problem:
                seen.errors.append(f"{view.name} did not open: {problem}")
            page.close()
            yield seen
        context.close()


def listen(page: Page, seen: Seen) -> None:
    """Note what the page throws or writes as an error; the refusal that a page is about is none."""

    def written(message: ConsoleMessage) -> None:
        expected = "Failed to load resource" in message.text and message.location.get("url", "").endswith(
            seen.view.path
        )
        if message.type == "error" and not expected:
            seen.errors.append(f"{seen.view.name}: {message.text} {message.location.get('url', '')}")

    page.on("console", written)
    page.on("pageerror", lambda error: seen.errors.append(f"{seen.view.name}: {error}"))
