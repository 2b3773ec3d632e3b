"""The tab of API tokens: everybody's, to see, create and revoke."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from dataengine.records import ROLES, ApiToken
from pipelines.services.admin import tokens, users
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, acting, ago, checked, plain, when

TOKENS = ("id", "person", "name", "roles", "created", "last used", "until")
TERMS = (("30 days", "30"), ("90 days", "90"), ("a year", "365"), ("never", "never"))
QUIET: dict[str, Any] = {"show_progress": "hidden"}
ABOUT = (
    "Programs sign in with an API token instead of a password. It acts for its person, with the roles chosen "
    "here or those of them that the person still has. Everybody manages their own under Account."
)


def tokens_tab(workspace: Workspace, tab: gr.Tab) -> None:
    """Build the tab inside the open one, and load it when that is opened."""
    gr.Markdown(ABOUT, container=False, elem_classes="hint")
    table = gr.Dataframe(headers=list(TOKENS), interactive=False, label="API tokens", **SHOWN)
    with gr.Row(elem_classes="line"):
        chosen = gr.Dropdown(label="Select a row, or choose the token to revoke here", choices=[], scale=3)
        revoke = gr.Button("Revoke", variant="stop", size="sm", min_width=110)
    gr.Markdown("## Create a token", container=False)
    with gr.Row(elem_classes="line"):
        person = gr.Dropdown(label="Person", choices=[], scale=2)
        name = gr.Textbox(label="Name, such as the program's", max_length=tokens.MOST_NAME, scale=2)
        roles = gr.CheckboxGroup(list(ROLES), label="Roles", scale=4)
        term = gr.Dropdown(label="Expires after", choices=list(TERMS), value="90", min_width=110)
        create = gr.Button("Create", variant="primary", size="sm", min_width=90)
    text = gr.Textbox(
        label="The new token: copy it now, it is not shown again", interactive=False, visible=False
    )

    fields = [table, chosen, person]

    def shown(id: str | None = None) -> list[Any]:
        """The table, the tokens that can be revoked with one of them selected, and the people."""
        found = tokens.list_tokens(workspace)
        valid = [(f"{one.name}, {one.user}'s", one.id) for one in found if tokens.ended(one) is None]
        selected = id if id in [each for _, each in valid] else None
        names = [one.user.name for one in users.list_accounts(workspace) if one.user.active]
        return [
            tokens_table(found),
            gr.update(choices=valid, value=selected),
            gr.update(choices=names),
        ]

    @checked(ADMINS, "seeing API tokens")
    def load(request: gr.Request) -> list[Any]:
        return shown()

    @checked(ADMINS, "seeing API tokens")
    def pick_row(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return shown(event.row_value[0])

    @checked(ADMINS, "creating an API token")
    def create_token(
        person: str | None, name: str, roles: list[str], term: str, request: gr.Request
    ) -> list[Any]:
        actor = acting(request, ADMINS, "creating an API token")
        if not person:
            raise InputRefused("no person is selected; select whose token it is")
        made, _ = tokens.create_token(workspace, person, name, roles, days_of(term), actor)
        return [*shown(), gr.update(value=made, visible=True), ""]

    @checked(ADMINS, "revoking an API token")
    def revoke_token(id: str | None, request: gr.Request) -> list[Any]:
        if not id:
            raise InputRefused("no token is selected; select one from the list")
        revoked = tokens.revoke_token(workspace, id, acting(request, ADMINS, "revoking an API token"))
        gr.Info(f"API token {plain(revoked.name)} revoked.")
        return [*shown(), gr.update(value="", visible=False)]

    tab.select(load, None, fields, api_name="tokens", **READING)
    table.select(pick_row, None, fields, api_name=False, **READING)
    create.click(
        create_token, [person, name, roles, term], [*fields, text, name], api_name="create_token", **QUIET
    )
    revoke.click(revoke_token, [chosen], [*fields, text], api_name="revoke_token", **QUIET)


def days_of(term: str) -> tokens.Days:
    """The days of the chosen term."""
    if term == "never":
        return "never"
    try:
        return int(term)
    except ValueError:
        raise InputRefused(f"an API token expires after a number of days, or never; not {term!r}") from None


def tokens_table(found: list[ApiToken]) -> pd.DataFrame:
    """One row for each token, newest first, without what is secret."""
    rows = [
        [
            one.id,
            one.user,
            one.name,
            ", ".join(one.roles),
            when(one.created),
            ago(one.used),
            tokens.ended(one) or ("never" if one.expires is None else when(one.expires)),
        ]
        for one in found
    ]
    return pd.DataFrame(rows, columns=list(TOKENS))
