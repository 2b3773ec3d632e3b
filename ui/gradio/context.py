"""What every tab is built with: where it works, who acts, how progress and workers are shown."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from dataengine.errors import ClinicError
from dataengine.records import Report
from pipelines.services.preflight import Check, on_a_gpu
from pipelines.services.queue import workers_alive
from storage.workspace import Workspace
from ui.web.gradio_kit import acting, plain

GUEST = "guest"
"""Whoever opens a Space without a password; each browser session is a person of its own."""
MARKS = {"good": "✓", "warn": "⚠", "bad": "✗"}
ANY: dict[str, Any] = {"allow_custom_value": True}
"""For lists that are filled in when the page is open: Gradio would refuse their values by the empty list that
it was built with. Our services refuse what is unknown."""
SMALL = "cpu-smoke"
"""The recipe that runs in minutes without a GPU."""


@dataclass(frozen=True, kw_only=True)
class AppContext:
    """The workspace, and whether our own pages are served beside this app."""

    workspace: Workspace
    lease_seconds: float = 900.0
    desks: bool = True


def person(request: gr.Request, roles: frozenset[str], action: str) -> str:
    """The name under which this person's work is stored. Raises `AccessDenied`."""
    name = acting(request, roles, action)
    return f"{GUEST}-{(request.session_hash or '')[:8]}" if name == GUEST else name


def report_to(progress: gr.Progress) -> Report:
    """A report that moves Gradio's progress bar."""

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        progress((done, total) if total else None, desc=message)

    return report


@contextmanager
def refusals() -> Iterator[None]:
    """Show our errors as messages, in parts of the page that are no handlers."""
    try:
        yield
    except ClinicError as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error


def worker_note(workspace: Workspace) -> str:
    """What keeps jobs from starting or makes them slow, as Markdown; "" for nothing."""
    if not workers_alive(workspace):
        return "⚠ No worker is running, so jobs wait until one does: `clinic worker`."
    if not on_a_gpu(workspace):
        return (
            f"The worker has no GPU. The small recipe, “{SMALL}”, ends within minutes and shows that "
            "everything works; its models hardly improve."
        )
    return ""


def check_lines(checks: Sequence[Check]) -> str:
    """Preflight checks as a Markdown list."""
    return "\n".join(f"- {MARKS[one.verdict]} **{one.name}**: {plain(one.text)}" for one in checks)


def percent(value: float | None) -> str:
    """A share in [0, 1], or a dash."""
    return "–" if value is None else f"{value:.0%}"


def figure(value: float | None) -> str:
    """A confidence or a metric, or a dash."""
    return "–" if value is None else f"{value:.3f}"
