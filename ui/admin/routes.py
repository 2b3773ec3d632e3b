"""The admin desk: people, registered models and endpoints, workers, disk, backups, and the audit trail."""

import shutil
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from dataengine.records import ROLES, Endpoint
from pipelines.services.admin import users
from pipelines.services.endpoints import KINDS, add_endpoint, remove_endpoint
from pipelines.services.jobs import request_job
from pipelines.services.queue import workers_alive
from storage.queries.overview import overview
from storage.workspace import Workspace
from ui.admin.gradio_kit import acting, ago, checked, desk, heading, panel, refresh, short, size, when
from ui.web.access import ADMINS

EVENTS_SHOWN = 100
PEOPLE = ("name", "roles", "state", "created")
ENDPOINTS = ("kind", "name", "location", "created")
EVENTS = ("time", "user", "action", "subject", "details")


def build_admin_desk(workspace: Workspace, allowed_networks: Sequence[str] = ()) -> gr.Blocks:
    """The desk at /admin."""
    with desk("Admin") as blocks:
        heading("Admin", "Accounts and roles, allowed models and folders, system health.")
        with gr.Tabs():
            with gr.Tab("People"):
                people = gr.Dataframe(
                    headers=list(PEOPLE), interactive=False, label="Accounts", buttons=[], wrap=True
                )
                with gr.Row():
                    with gr.Column():
                        gr.Markdown("#### Add a person")
                        new_name = gr.Textbox(label="Name", max_length=64)
                        new_password = gr.Textbox(
                            label="Password", type="password", info="10 characters or more", max_length=1024
                        )
                        new_roles = gr.CheckboxGroup(list(ROLES), label="Roles", value=["annotator"])
                        create = gr.Button("Add", variant="primary")
                    with gr.Column():
                        gr.Markdown("#### Change a person")
                        chosen = gr.Dropdown(label="Account", choices=[], allow_custom_value=True)
                        roles = gr.CheckboxGroup(list(ROLES), label="Roles")
                        set_roles = gr.Button("Set roles")
                        password = gr.Textbox(label="New password", type="password", max_length=1024)
                        reset = gr.Button("Reset password")
                        with gr.Row():
                            close = gr.Button("Deactivate", variant="stop")
                            reopen = gr.Button("Activate")
            with gr.Tab("Models and endpoints"):
                endpoints = gr.Dataframe(
                    headers=list(ENDPOINTS), interactive=False, label="Registered", buttons=[], wrap=True
                )
                with gr.Row(elem_classes="line"):
                    kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Kind", scale=1)
                    name = gr.Textbox(label="Name", max_length=100, scale=1)
                    location = gr.Textbox(label="Folder, hub id or URL", max_length=500, scale=2)
                    register = gr.Button("Register", variant="primary", scale=1)
                with gr.Row(elem_classes="line"):
                    doomed = gr.Dropdown(label="Entry", choices=[], allow_custom_value=True, scale=4)
                    remove = gr.Button("Remove", variant="stop", scale=1)
            with gr.Tab("System"):
                figures = panel("figures")
                with gr.Row():
                    workers = panel("rows", label="Workers")
                    backups = panel("rows", label="Backups")
                with gr.Row():
                    measure = gr.Button("Calculate disk use")
                    back_up = gr.Button("Back up now", variant="primary")
                usage = panel("facts", label="Disk use")
            with gr.Tab("Audit"):
                events = gr.Dataframe(
                    headers=list(EVENTS),
                    interactive=False,
                    label="Newest first",
                    buttons=["fullscreen"],
                    wrap=True,
                )

    people_shown, endpoints_shown, system_shown = (
        [people, chosen],
        [endpoints, doomed],
        [figures, workers, backups],
    )

    @checked(ADMINS, "seeing accounts")
    def load(request: gr.Request) -> tuple[Any, ...]:
        return (*people_table(workspace), *endpoint_table(workspace), audit_table(workspace))

    @checked(ADMINS, "seeing the system")
    def watch(request: gr.Request) -> tuple[Any, ...]:
        return system_panels(workspace)

    @checked(ADMINS, "seeing accounts")
    def pick(name: str | None, request: gr.Request) -> list[str]:
        with workspace.catalog(read_only=True) as catalog:
            return list(catalog.users.get(name).roles) if name else []

    @checked(ADMINS, "adding a person")
    def add_person(name: str, password: str, roles: list[str], request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "adding a person")
        users.add_user(workspace, name.strip(), password, roles, actor)
        return (*people_table(workspace), "", "")

    @checked(ADMINS, "changing roles")
    def give_roles(name: str | None, roles: list[str], request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "changing roles")
        users.set_roles(workspace, named(name), roles, actor)
        return people_table(workspace, name)

    @checked(ADMINS, "resetting a password")
    def new_password_for(name: str | None, password: str, request: gr.Request) -> str:
        actor = acting(request, ADMINS, "resetting a password")
        users.set_password(workspace, named(name), password, actor)
        gr.Info("Password changed. The user is signed out everywhere.")
        return ""

    @checked(ADMINS, "deactivating a person")
    def deactivate(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "deactivating a person")
        users.set_active(workspace, named(name), False, actor)
        return people_table(workspace, name)

    @checked(ADMINS, "activating a person")
    def activate(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "activating a person")
        users.set_active(workspace, named(name), True, actor)
        return people_table(workspace, name)

    @checked(ADMINS, "registering an endpoint")
    def register_endpoint(kind: str, name: str, location: str, request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "registering an endpoint")
        add_endpoint(workspace, kind, name, location, actor, allowed_networks)
        return endpoint_table(workspace)

    @checked(ADMINS, "removing an endpoint")
    def drop_endpoint(id: str | None, request: gr.Request) -> tuple[Any, ...]:
        actor = acting(request, ADMINS, "removing an endpoint")
        remove_endpoint(workspace, id or "", actor)
        return endpoint_table(workspace)

    @checked(ADMINS, "calculating disk use")
    def measure_disk(request: gr.Request) -> dict[str, Any]:
        return disk_use(workspace)

    @checked(ADMINS, "requesting a backup")
    def ask_backup(request: gr.Request) -> tuple[Any, ...]:
        request_job(workspace, "backup", {}, acting(request, ADMINS, "requesting a backup"))
        return system_panels(workspace)

    with blocks:
        quiet = {"show_progress": "hidden"}
        blocks.load(load, None, [*people_shown, *endpoints_shown, events], api_name="overview", **quiet)
        refresh(blocks, watch, [], system_shown, api_name="system")
        chosen.change(pick, [chosen], [roles], api_name="roles_of", **quiet)
        person = [new_name, new_password, new_roles]
        create.click(
            add_person, person, [*people_shown, new_name, new_password], api_name="add_person", **quiet
        )
        set_roles.click(give_roles, [chosen, roles], people_shown, api_name="set_roles", **quiet)
        reset.click(new_password_for, [chosen, password], [password], api_name="reset_password", **quiet)
        close.click(deactivate, [chosen], people_shown, api_name="deactivate", **quiet)
        reopen.click(activate, [chosen], people_shown, api_name="activate", **quiet)
        register.click(
            register_endpoint, [kind, name, location], endpoints_shown, api_name="register", **quiet
        )
        remove.click(drop_endpoint, [doomed], endpoints_shown, api_name="remove", **quiet)
        measure.click(measure_disk, None, [usage], api_name="disk")
        back_up.click(ask_backup, None, system_shown, api_name="backup", **quiet)
    return blocks


def named(name: str | None) -> str:
    """The selected account. Raises `InputRefused` without one."""
    if not name:
        raise InputRefused("no account is selected; select one from the list")
    return name


def people_table(workspace: Workspace, name: str | None = None) -> tuple[pd.DataFrame, Any]:
    """All accounts, as a table and as choices."""
    with workspace.catalog(read_only=True) as catalog:
        accounts = catalog.users.list()
    rows = [
        [one.name, ", ".join(one.roles), "active" if one.active else "deactivated", when(one.created)]
        for one in accounts
    ]
    return pd.DataFrame(rows, columns=list(PEOPLE)), gr.update(
        choices=[one.name for one in accounts], value=name
    )


def endpoint_table(workspace: Workspace) -> tuple[pd.DataFrame, Any]:
    """Everything registered, as a table and as choices."""
    with workspace.catalog(read_only=True) as catalog:
        registered = catalog.endpoints.list()
    rows = [[one.kind, one.name, shown_location(one), when(one.created)] for one in registered]
    choices = [(f"{one.kind} · {one.name}", one.id) for one in registered]
    return pd.DataFrame(rows, columns=list(ENDPOINTS)), gr.update(choices=choices, value=None)


def shown_location(endpoint: Endpoint) -> str:
    """An endpoint's location; only the server for a webhook, whose path may be a secret."""
    if endpoint.kind != "webhook":
        return endpoint.location
    return f"{urlsplit(endpoint.location).scheme}://{urlsplit(endpoint.location).netloc}/…"


def system_panels(workspace: Workspace) -> tuple[Any, Any, Any]:
    """Figures, workers and backups."""
    with workspace.catalog(read_only=True) as catalog:
        seen, jobs = overview(catalog), catalog.jobs.list(kind="backup", limit=6)
    disk = shutil.disk_usage(workspace.path)
    figures = {
        "items": [
            {"value": size(disk.free), "label": f"free of {size(disk.total)}"},
            {"value": short(sum(seen.images.values())), "label": "images"},
            {"value": short(seen.users), "label": "accounts"},
            {"value": short(seen.jobs.get("queued", 0)), "label": "jobs waiting"},
            {"value": short(seen.jobs.get("running", 0)), "label": "jobs running"},
            {"value": short(seen.jobs.get("failed", 0)), "label": "jobs failed"},
        ]
    }
    rows = [
        {
            "title": when(job.created),
            "sub": job.error or str(job.result.get("path", "")) or job.message,
            "state": job.state,
            "progress": job.progress,
            "note": ago(job.finished),
        }
        for job in jobs
    ]
    return figures, worker_rows(workspace), {"items": rows, "empty": "No backups yet."}


def worker_rows(workspace: Workspace) -> dict[str, Any]:
    """Workers with a recent heartbeat."""
    return {
        "empty": "No worker is running, so jobs do not start. Start one with “clinic worker”.",
        "items": [
            {
                "title": f"{worker.host} · {worker.pid}",
                "sub": worker.job_id or "idle",
                "note": ", ".join(worker.devices) or "cpu",
            }
            for worker in workers_alive(workspace)
        ],
    }


def disk_use(workspace: Workspace) -> dict[str, Any]:
    """Bytes in each part of the workspace folder, the largest first."""
    parts = {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if entry.is_dir()
        else entry.stat().st_size
        for entry in workspace.path.iterdir()
    }
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return {"items": [[name, size(count)] for name, count in ordered]}


def audit_table(workspace: Workspace) -> pd.DataFrame:
    """The newest audit events."""
    with workspace.catalog(read_only=True) as catalog:
        events = catalog.audit.list(limit=EVENTS_SHOWN)
    rows = [
        [
            when(one.at),
            one.actor,
            one.action,
            one.subject,
            ", ".join(f"{key}: {value}" for key, value in one.details.items()),
        ]
        for one in events
    ]
    return pd.DataFrame(rows, columns=list(EVENTS))
