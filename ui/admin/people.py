"""The tab of accounts: who may do what, what they did, and their sessions."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from dataengine.records import ROLES
from pipelines.services.admin import users
from pipelines.services.admin.users import Account
from ui.web.access import ADMINS
from ui.web.desk import Site
from ui.web.gradio_kit import READING, SHOWN, acting, ago, checked, when

PEOPLE = ("name", "roles", "state", "last seen", "browsers", "labels", "reviews", "votes", "created")
SESSIONS = ("browser", "since", "until")
QUIET: dict[str, Any] = {"show_progress": "hidden"}


def people_tab(site: Site, blocks: gr.Blocks) -> None:
    """Build the tab inside the open one, and load it with the page."""
    workspace, session_manager = site.workspace, site.session_manager
    people = gr.Dataframe(headers=list(PEOPLE), interactive=False, label="Accounts", **SHOWN)
    chosen = gr.Dropdown(label="Select a row, or choose the account to change here", choices=[])
    with gr.Column(visible=False, elem_classes="editor") as editor:
        with gr.Row(elem_classes="line"):
            roles = gr.CheckboxGroup(list(ROLES), label="Roles", scale=4)
            set_roles = gr.Button("Save roles", size="sm", min_width=110)
        with gr.Row(elem_classes="line"):
            new_name = gr.Textbox(label="New name", max_length=64, scale=2)
            rename = gr.Button("Rename", size="sm", min_width=110)
            password = gr.Textbox(label="New password", type="password", max_length=1024, scale=2)
            reset = gr.Button("Set password", size="sm", min_width=110)
        with gr.Row(elem_classes="line"):
            sessions = gr.Dataframe(headers=list(SESSIONS), interactive=False, label="Signed in", **SHOWN)
        with gr.Row(elem_classes="line"):
            session = gr.Dropdown(label="Browser", choices=[], scale=3)
            end_one = gr.Button("Sign out there", size="sm", min_width=110)
            end_all = gr.Button("Sign out everywhere", size="sm", min_width=170)
        with gr.Row(elem_classes="line"):
            close = gr.Button("Deactivate", size="sm", min_width=110)
            reopen = gr.Button("Activate", size="sm", min_width=110)
            confirm = gr.Textbox(label="Type the name to delete the account", max_length=64, scale=3)
            delete = gr.Button("Delete", variant="stop", size="sm", min_width=110)
    gr.Markdown("## Add a person", container=False)
    with gr.Row(elem_classes="line"):
        added_name = gr.Textbox(label="Name", max_length=64, scale=2)
        added_password = gr.Textbox(
            label="Password (10 characters or more)", type="password", max_length=1024, scale=2
        )
        added_roles = gr.CheckboxGroup(list(ROLES), label="Roles", value=["annotator"], scale=4)
        create = gr.Button("Add", variant="primary", size="sm", min_width=90)
    gr.Markdown(
        "They choose a password of their own when they first sign in. The first account must be an admin's; "
        "it signs you in and disables the start-up link.",
        container=False,
        elem_classes="hint",
    )

    fields = [people, editor, chosen, roles, sessions, session, close, reopen, confirm]

    def shown(name: str | None = None) -> list[Any]:
        """The table, and the editor of one account, hidden without one."""
        accounts = users.list_accounts(workspace)
        one = next((each for each in accounts if each.user.name == name), None)
        return [people_table(accounts), *editor_of(one, [each.user.name for each in accounts])]

    @checked(ADMINS, "seeing accounts")
    def load(request: gr.Request) -> list[Any]:
        first = not users.list_accounts(workspace)
        return [*shown(), ["admin"] if first else ["annotator"]]

    @checked(ADMINS, "seeing accounts")
    def pick(name: str | None, request: gr.Request) -> list[Any]:
        return shown(name)

    @checked(ADMINS, "seeing accounts")
    def pick_row(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return shown(event.row_value[0])

    @checked(ADMINS, "adding a person")
    def add_person(name: str, password: str, roles: list[str], request: gr.Request) -> list[Any]:
        actor, name = acting(request, ADMINS, "adding a person"), name.strip()
        users.add_user(workspace, name, password, roles, actor)
        session_manager.adopt(request.request.state.person, name)
        own = request.request.state.person.local
        gr.Info(f"Account {name} added." + (f" You are now signed in as {name}." if own else ""))
        return [*shown(), "", ""]

    @checked(ADMINS, "changing roles")
    def give_roles(name: str | None, roles: list[str], request: gr.Request) -> list[Any]:
        users.set_roles(workspace, named(name), roles, acting(request, ADMINS, "changing roles"))
        gr.Info("Roles saved.")
        return shown(name)

    @checked(ADMINS, "renaming a person")
    def rename_person(name: str | None, new_name: str, request: gr.Request) -> list[Any]:
        new_name = new_name.strip()
        users.rename_user(workspace, named(name), new_name, acting(request, ADMINS, "renaming a person"))
        gr.Info(f"Renamed to {new_name}.")
        return [*shown(new_name), ""]

    @checked(ADMINS, "resetting a password")
    def new_password_for(name: str | None, password: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "resetting a password")
        users.set_password(workspace, named(name), password, actor, must_change=name != actor)
        gr.Info("Password set. The person is signed out and chooses another one at the next sign-in.")
        return [*shown(name), ""]

    @checked(ADMINS, "ending sessions")
    def sign_out_there(name: str | None, id: str | None, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "ending sessions")
        users.end_session(workspace, named(name), id or "", actor)
        return shown(name)

    @checked(ADMINS, "ending sessions")
    def sign_out_everywhere(name: str | None, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "ending sessions")
        kept = request.request.state.person.session_hash
        ended = users.end_sessions(workspace, named(name), actor, but=kept)
        gr.Info(f"{ended} {'browser' if ended == 1 else 'browsers'} signed out.")
        return shown(name)

    @checked(ADMINS, "deactivating a person")
    def deactivate(name: str | None, request: gr.Request) -> list[Any]:
        users.set_active(workspace, named(name), False, acting(request, ADMINS, "deactivating a person"))
        return shown(name)

    @checked(ADMINS, "activating a person")
    def activate(name: str | None, request: gr.Request) -> list[Any]:
        users.set_active(workspace, named(name), True, acting(request, ADMINS, "activating a person"))
        return shown(name)

    @checked(ADMINS, "deleting a person")
    def delete_person(name: str | None, typed: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "deleting a person")
        if typed.strip() != named(name):
            raise InputRefused(
                f"to delete the account, type its name, {name}, into the field beside the button"
            )
        users.remove_user(workspace, named(name), actor, keep_admin=True)
        gr.Info(f"Account {name} deleted. Labels, reviews and votes are kept.")
        return shown()

    blocks.load(load, None, [*fields, added_roles], api_name="overview", **READING)
    people.select(pick_row, None, fields, api_name=False, **READING)
    chosen.input(pick, [chosen], fields, api_name="account", **READING)
    added = [added_name, added_password]
    create.click(add_person, [*added, added_roles], [*fields, *added], api_name="add_person", **QUIET)
    set_roles.click(give_roles, [chosen, roles], fields, api_name="set_roles", **QUIET)
    rename.click(rename_person, [chosen, new_name], [*fields, new_name], api_name="rename", **QUIET)
    reset.click(new_password_for, [chosen, password], [*fields, password], api_name="reset_password", **QUIET)
    end_one.click(sign_out_there, [chosen, session], fields, api_name="end_session", **QUIET)
    end_all.click(sign_out_everywhere, [chosen], fields, api_name="end_sessions", **QUIET)
    close.click(deactivate, [chosen], fields, api_name="deactivate", **QUIET)
    reopen.click(activate, [chosen], fields, api_name="activate", **QUIET)
    delete.click(delete_person, [chosen, confirm], fields, api_name="delete_person", **QUIET)


def named(name: str | None) -> str:
    """The selected account. Raises `InputRefused` without one."""
    if not name:
        raise InputRefused("no account is selected; select one from the list")
    return name


def people_table(accounts: list[Account]) -> pd.DataFrame:
    """One row for each account, with the counts of its work."""
    rows = [
        [
            one.user.name,
            ", ".join(one.user.roles),
            state_of(one),
            ago(one.user.seen),
            len(one.sessions),
            one.work.labels,
            one.work.reviews,
            one.work.votes,
            when(one.user.created),
        ]
        for one in accounts
    ]
    return pd.DataFrame(rows, columns=list(PEOPLE))


def state_of(account: Account) -> str:
    """Whether the person can sign in."""
    if not account.user.active:
        return "deactivated"
    return "active, new password due" if account.user.must_change else "active"


def editor_of(account: Account | None, names: list[str]) -> list[Any]:
    """The editor's fields for an account; hidden without one."""
    if account is None:
        choice = gr.update(choices=names, value=None)
        return [
            gr.update(visible=False),
            choice,
            [],
            None,
            gr.update(choices=[], value=None),
            *3 * [gr.skip()],
        ]
    user = account.user
    rows = [[one.client or "–", when(one.created), when(one.expires)] for one in account.sessions]
    browsers = [
        (f"{one.client or 'unknown browser'}, since {when(one.created)}", users.session_id(one))
        for one in account.sessions
    ]
    return [
        gr.update(visible=True),
        gr.update(choices=names, value=user.name),
        list(user.roles),
        pd.DataFrame(rows, columns=list(SESSIONS)),
        gr.update(choices=browsers, value=browsers[0][1] if browsers else None),
        gr.update(visible=user.active),
        gr.update(visible=not user.active),
        "",
    ]
