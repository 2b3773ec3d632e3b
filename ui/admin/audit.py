"""The tab of the audit trail: who did what and when, with filters, search, paging and an export."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from pipelines.services.admin import audit
from storage.queries.audit import AuditFilter
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, checked, when

PAGE = 50
EVENTS = ("time", "who", "what", "subject", "details")
ANYTHING, ANYBODY = "Everything", "Everybody"


def audit_tab(workspace: Workspace, tab: gr.Tab) -> None:
    """Build the tab inside the open one, and load it when that is opened."""
    with gr.Row(elem_classes="line"):
        actor = gr.Dropdown([ANYBODY], value=ANYBODY, label="Who", min_width=140)
        topic = gr.Dropdown([ANYTHING, *audit.TOPICS.values()], value=ANYTHING, label="What", min_width=140)
        since = gr.Textbox(label="From", placeholder="YYYY-MM-DD", max_length=10, min_width=110)
        until = gr.Textbox(label="To", placeholder="YYYY-MM-DD", max_length=10, min_width=110)
        text = gr.Textbox(label="Search", max_length=200, min_width=180, scale=2)
    events = gr.Dataframe(headers=list(EVENTS), interactive=False, label="Newest first", **SHOWN)
    page = gr.State(0)
    with gr.Row(elem_classes="line"):
        newer = gr.Button("← Newer", size="sm", min_width=100)
        older = gr.Button("Older →", size="sm", min_width=100)
        position = gr.Markdown(container=False, elem_classes="hint")
    asked, outputs = [actor, topic, since, until, text], [events, page, position, actor]

    def show(page: int, *asked: Any) -> list[Any]:
        wanted = filter_of(*asked)
        rows, total = audit.find_events(workspace, wanted, PAGE, page * PAGE)
        if page and not rows:
            return show(max(0, (total - 1) // PAGE), *asked)
        actors = [ANYBODY, *audit.list_actors(workspace)]
        return [table(rows), page, place(page, len(rows), total, asked), gr.update(choices=actors)]

    @checked(ADMINS, "reading the audit trail")
    def first(actor: str, topic: str, since: str, until: str, text: str, request: gr.Request) -> list[Any]:
        return show(0, actor, topic, since, until, text)

    @checked(ADMINS, "reading the audit trail")
    def back(
        page: int, actor: str, topic: str, since: str, until: str, text: str, request: gr.Request
    ) -> Any:
        return show(max(0, page - 1), actor, topic, since, until, text)

    @checked(ADMINS, "reading the audit trail")
    def on(page: int, actor: str, topic: str, since: str, until: str, text: str, request: gr.Request) -> Any:
        return show(page + 1, actor, topic, since, until, text)

    tab.select(first, asked, outputs, api_name="audit", **READING)
    for field in (actor, topic):
        field.input(first, asked, outputs, api_name=False, **READING)
    for box in (since, until, text):
        box.submit(first, asked, outputs, api_name=False, **READING)
        box.blur(first, asked, outputs, api_name=False, **READING)
    newer.click(back, [page, *asked], outputs, api_name=False, **READING)
    older.click(on, [page, *asked], outputs, api_name=False, **READING)


def filter_of(actor: str, topic: str, since: str, until: str, text: str) -> AuditFilter:
    """The filter of the tab's fields; the day `until` is included. Raises `InputRefused` for a wrong date."""
    topics = {title: name for name, title in audit.TOPICS.items()}
    last = day(until)
    return AuditFilter(
        actor="" if actor in (ANYBODY, None) else actor,
        topic=topics.get(topic, ""),
        since=start.timestamp() if (start := day(since)) else None,
        until=(last + timedelta(days=1)).timestamp() if last else None,
        text=(text or "").strip(),
    )


def day(written: str) -> datetime | None:
    """The start of a day in the server's time zone; None for no text. Raises `InputRefused`."""
    if not (written or "").strip():
        return None
    try:
        return datetime.strptime(written.strip(), "%Y-%m-%d").astimezone()
    except ValueError:
        raise InputRefused(f"{written!r} is no date; write it as 2026-11-30") from None


def table(rows: list[audit.AuditRow]) -> pd.DataFrame:
    """The events of a page."""
    cells = [[when(one.at), one.who, one.what, one.subject, one.details] for one in rows]
    return pd.DataFrame(cells, columns=list(EVENTS))


def place(page: int, shown: int, total: int, asked: tuple[Any, ...]) -> str:
    """Which events are shown, and the link to all of them as a file."""
    if not total:
        return "No event fits this filter."
    names = ("actor", "topic", "since", "until", "text")
    query = urlencode({name: value for name, value in zip(names, asked, strict=True) if value})
    first = page * PAGE + 1
    return f"{first}–{first + shown - 1} of {total} · [Export as CSV](../api/admin/audit.csv?{query})"
