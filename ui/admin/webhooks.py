"""The tab of webhooks: what each address is told, its secret, and what was sent to it."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.records import EVENTS, Delivery
from pipelines.services.operation import webhooks
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, acting, checked, plain, when

HOOKS = ("name", "server", "events", "to be sent", "failed", "newest message", "id")
LOG = ("when", "event", "about", "state", "attempts", "last answer", "id")
NO_HOOK = "Select a webhook. Register one under **Models and endpoints**, as kind *webhook*."
NO_MESSAGE = "Select a message to send it again."
QUIET: dict[str, Any] = {"show_progress": "hidden"}


def webhooks_tab(workspace: Workspace, tab: gr.Tab) -> None:
    """Build the tab inside the open one, and load it when that is opened."""
    hooks = gr.Dataframe(headers=list(HOOKS), interactive=False, label="Webhooks", **SHOWN)
    note = gr.Markdown(NO_HOOK, container=False, elem_classes="hint")
    chosen, message = gr.State(None), gr.State(None)
    with gr.Column(elem_classes="editor", visible=False) as editor:
        events = gr.CheckboxGroup(list(EVENTS), label="Events that it is told of")
        with gr.Row(elem_classes="line"):
            save = gr.Button("Save events", size="sm", min_width=110)
            test = gr.Button("Send a test", variant="primary", size="sm", min_width=110)
        with gr.Row(elem_classes="line"):
            secret = gr.Textbox(label="Secret", interactive=False, buttons=["copy"], scale=3, min_width=260)
            reveal = gr.Button("Show the secret", size="sm", min_width=130)
            hours = gr.Number(
                label="Both secrets sign for … hours",
                value=webhooks.ROTATION_HOURS,
                minimum=0,
                maximum=webhooks.MOST_ROTATION_HOURS,
                min_width=170,
            )
            rotate = gr.Button("New secret", variant="stop", size="sm", min_width=110)
        log = gr.Dataframe(headers=list(LOG), interactive=False, label="Messages", **SHOWN)
        with gr.Row(elem_classes="line"):
            about = gr.Markdown(NO_MESSAGE, container=False, elem_classes="hint")
            again = gr.Button("Send it again", size="sm", min_width=110, interactive=False)
    state = [hooks, note, chosen, editor, events, secret, log, message, about, again]

    @checked(ADMINS, "seeing webhooks")
    def load(request: gr.Request) -> list[Any]:
        return hook_state(workspace, None)

    @checked(ADMINS, "seeing webhooks")
    def pick(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return hook_state(workspace, event.row_value[len(HOOKS) - 1])

    @checked(ADMINS, "choosing a webhook's events")
    def save_events(id: str | None, chosen: list[str], request: gr.Request) -> list[Any]:
        webhooks.set_events(
            workspace, id or "", chosen, acting(request, ADMINS, "choosing a webhook's events")
        )
        gr.Info("Saved.")
        return hook_state(workspace, id)

    @checked(ADMINS, "testing a webhook")
    def send_test(id: str | None, request: gr.Request) -> list[Any]:
        sent = webhooks.send_test(workspace, id or "")
        gr.Info(f"The signed test message was taken with status {sent.status}.")
        return hook_state(workspace, id)

    @checked(ADMINS, "seeing a webhook's secret")
    def show_secret(id: str | None, request: gr.Request) -> str:
        return webhooks.reveal_secret(
            workspace, id or "", acting(request, ADMINS, "seeing a webhook's secret")
        )

    @checked(ADMINS, "changing a webhook's secret")
    def new_secret(id: str | None, hours: float | None, request: gr.Request) -> str:
        actor = acting(request, ADMINS, "changing a webhook's secret")
        return webhooks.rotate_secret(workspace, id or "", actor, hours or 0.0)

    @checked(ADMINS, "seeing webhooks")
    def pick_message(event: gr.SelectData, request: gr.Request) -> list[Any]:
        row = event.row_value
        return [row[len(LOG) - 1], f"**{plain(row[1])}** of {plain(row[0])}", gr.update(interactive=True)]

    @checked(ADMINS, "sending a message again")
    def send_again(id: str | None, message: str | None, request: gr.Request) -> list[Any]:
        webhooks.send_again(workspace, message or "", acting(request, ADMINS, "sending a message again"))
        gr.Info("A worker sends it within seconds.")
        return hook_state(workspace, id)

    tab.select(load, None, state, api_name="webhooks", **READING)
    hooks.select(pick, None, state, api_name=False, **READING)
    save.click(save_events, [chosen, events], state, api_name="webhook_events", **QUIET)
    test.click(send_test, [chosen], state, api_name="webhook_test", **QUIET)
    reveal.click(show_secret, [chosen], [secret], api_name="webhook_secret", **QUIET)
    rotate.click(new_secret, [chosen, hours], [secret], api_name="webhook_rotate", **QUIET)
    log.select(pick_message, None, [message, about, again], api_name=False, **READING)
    again.click(send_again, [chosen, message], state, api_name="webhook_again", **QUIET)


def hook_state(workspace: Workspace, chosen: str | None) -> list[Any]:
    """All webhooks, and of the chosen one its events and messages."""
    found = webhooks.list_webhooks(workspace)
    rows = [
        [
            one.name,
            one.server,
            f"{len(one.events)} of {len(EVENTS)}",
            one.pending,
            one.failed,
            in_words(one.newest) if one.newest else "none yet",
            one.id,
        ]
        for one in found
    ]
    table = pd.DataFrame(rows, columns=list(HOOKS))
    hook = next((one for one in found if one.id == chosen), None)
    if hook is None:
        empty = pd.DataFrame([], columns=list(LOG))
        hidden = gr.update(visible=False)
        return [table, NO_HOOK, None, hidden, [], "", empty, None, NO_MESSAGE, gr.update(interactive=False)]
    note = f"**{plain(hook.name)}** at {plain(hook.server)}."
    if hook.rotating_until is not None:
        note += f" Messages carry the former secret's signature, too, until {when(hook.rotating_until)}."
    log = [
        [when(one.created), one.event, one.subject, one.state, one.attempts, last_answer(one), one.id]
        for one in webhooks.list_deliveries(workspace, hook.id)
    ]
    return [
        table,
        note,
        hook.id,
        gr.update(visible=True),
        list(hook.events),
        "",
        pd.DataFrame(log, columns=list(LOG)),
        None,
        NO_MESSAGE,
        gr.update(interactive=False),
    ]


def in_words(delivery: Delivery) -> str:
    """A message's event and what became of it."""
    return f"{delivery.event or 'a notice'}, {delivery.state}"


def last_answer(delivery: Delivery) -> str:
    """What came back at the last attempt."""
    return delivery.error or (f"status {delivery.status}" if delivery.status else "")
