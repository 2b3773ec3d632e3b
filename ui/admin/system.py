"""The tab of the machine: health, workers, backups, disk use."""

import os
import shutil
from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from pipelines.services.admin import backups, worker_logs
from pipelines.services.queue import workers_alive
from storage.queries.overview import overview
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import (
    POLL_SECONDS,
    READING,
    SHOWN,
    acting,
    ago,
    checked,
    figures,
    plain,
    short,
    size,
    when,
)

WORKERS = ("worker", "devices", "job", "last heartbeat")
FILES = ("file", "size", "written")
RUNS = ("requested", "what", "state", "result", "finished")
PARTS = ("part", "size")
KINDS = ("backup", "restore")
NO_WORKER = "No worker is running, so jobs do not start. Start one with `clinic worker`, or `clinic app`."
NO_FILE = "Select a backup to download, check or restore it."
QUIET: dict[str, Any] = {"show_progress": "hidden"}


def system_tab(workspace: Workspace, tab: gr.Tab) -> None:
    """Build the tab inside the open one; it is refreshed while it is open."""
    health = gr.Markdown(container=False, elem_classes="figures")
    workers = gr.Dataframe(headers=list(WORKERS), interactive=False, label="Workers", **SHOWN)
    absent = gr.Markdown(container=False, elem_classes="hint")
    with gr.Row(elem_classes="line"):
        level = gr.Dropdown(list(worker_logs.LEVELS), label="Log level of all workers", min_width=160)
        save_level = gr.Button("Save level", size="sm", min_width=110)
    gr.Markdown("## Backups", container=False)
    with gr.Row(elem_classes="line"):
        hours = gr.Number(
            label="Every … hours (0: never)", minimum=0, maximum=backups.MOST_HOURS, min_width=140
        )
        keep = gr.Number(label="Keep the newest (0: all)", minimum=0, precision=0, min_width=140)
        to = gr.Textbox(
            label="Second copy (folder on the server, or s3://…)", max_length=500, scale=2, min_width=220
        )
        save_schedule = gr.Button("Save schedule", size="sm", min_width=120)
    schedule_note = gr.Markdown(container=False, elem_classes="hint")
    files = gr.Dataframe(headers=list(FILES), interactive=False, label="Files", **SHOWN)
    with gr.Column(elem_classes="editor"):
        chosen = gr.Markdown(NO_FILE, padding=True)
        name = gr.Textbox(visible=False)
        with gr.Row(elem_classes="line", visible=False) as actions:
            check = gr.Button("Check it", size="sm", min_width=110)
            sure = gr.Checkbox(label="Restore it into a new folder on the server", min_width=260, scale=2)
            restore = gr.Button("Restore", variant="stop", size="sm", min_width=110)
    runs = gr.Dataframe(headers=list(RUNS), interactive=False, label="Newest jobs", **SHOWN)
    with gr.Row(elem_classes="line"):
        back_up = gr.Button("Back up now", variant="primary", size="sm", min_width=130)
        measure = gr.Button("Calculate disk use", size="sm", min_width=150)
    usage = gr.Dataframe(headers=list(PARTS), interactive=False, label="Disk use", visible=False, **SHOWN)
    timer = gr.Timer(POLL_SECONDS, active=False)
    shown, settings = [health, workers, absent, files, runs], [level, hours, keep, to, schedule_note]

    @checked(ADMINS, "seeing the system")
    def watch(request: gr.Request) -> list[Any]:
        return system_state(workspace)

    @checked(ADMINS, "seeing the system")
    def opened(request: gr.Request) -> list[Any]:
        return [*system_state(workspace), *settings_state(workspace), gr.update(active=True)]

    @checked(ADMINS, "changing the log level")
    def change_level(level: str, request: gr.Request) -> None:
        worker_logs.set_log_level(workspace, level, acting(request, ADMINS, "changing the log level"))
        gr.Info("Saved. Running workers follow within half a minute.")

    @checked(ADMINS, "scheduling backups")
    def change_schedule(hours: float | None, keep: int | None, to: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "scheduling backups")
        backups.set_schedule(workspace, hours, keep or None, to, actor)
        gr.Info("Saved. Running workers follow within half a minute.")
        return settings_state(workspace)[1:]

    @checked(ADMINS, "requesting a backup")
    def ask_backup(request: gr.Request) -> list[Any]:
        backups.request_backup(workspace, acting(request, ADMINS, "requesting a backup"))
        return system_state(workspace)

    @checked(ADMINS, "seeing backups")
    def pick(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return backup_state(workspace, event.row_value[0])

    @checked(ADMINS, "checking a backup")
    def ask_check(name: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "checking a backup")
        backups.request_restore(workspace, name, actor, check=True)
        return system_state(workspace)

    @checked(ADMINS, "restoring a backup")
    def ask_restore(name: str, sure: bool, request: gr.Request) -> list[Any]:
        if not sure:
            raise InputRefused(
                "tick the box beside the button first: a restore needs as much disk as the backup"
            )
        backups.request_restore(workspace, name, acting(request, ADMINS, "restoring a backup"))
        return [*system_state(workspace), False]

    @checked(ADMINS, "calculating disk use")
    def measure_disk(request: gr.Request) -> Any:
        return gr.update(value=disk_use(workspace), visible=True)

    tab.select(opened, None, [*shown, *settings, timer], api_name="system", **READING)
    timer.tick(watch, None, shown, api_name=False, concurrency_limit=None, **READING)
    save_level.click(change_level, [level], None, api_name="log_level", **QUIET)
    save_schedule.click(change_schedule, [hours, keep, to], settings[1:], api_name="schedule", **QUIET)
    files.select(pick, None, [chosen, name, actions], api_name=False, **READING)
    check.click(ask_check, [name], shown, api_name="check_backup", **QUIET)
    restore.click(ask_restore, [name, sure], [*shown, sure], api_name="restore", **QUIET)
    measure.click(measure_disk, None, [usage], api_name="disk")
    back_up.click(ask_backup, None, shown, api_name="backup", **QUIET)


def system_state(workspace: Workspace) -> list[Any]:
    """Health, workers, a note where there is none, backup files, and the newest backup jobs."""
    with workspace.catalog(read_only=True) as catalog:
        seen = overview(catalog)
        jobs = [job for kind in KINDS for job in catalog.jobs.list(kind=kind, limit=6)]
    disk = shutil.disk_usage(workspace.path)
    health = figures(
        [
            (size(disk.free), f"free of {size(disk.total)}"),
            (short(sum(seen.images.values())), "images"),
            (short(seen.users), "accounts"),
            (short(seen.jobs.get("queued", 0)), "jobs waiting"),
            (short(seen.jobs.get("running", 0)), "jobs running"),
            (short(seen.jobs.get("failed", 0)), "jobs failed"),
        ]
    )
    alive = worker_table(workspace)
    stored = [[one.name, size(one.size), when(one.at)] for one in backups.list_backups(workspace)]
    newest = sorted(jobs, key=lambda job: -job.created)[:6]
    rows = [
        [
            when(job.created),
            "check" if job.args.get("check") else job.kind,
            f"{job.state}, {job.progress:.0%}" if job.state == "running" else job.state,
            job.error or str(job.result.get("path", "")) or job.message,
            when(job.finished),
        ]
        for job in newest
    ]
    return [
        health,
        alive,
        NO_WORKER if alive.empty else "",
        pd.DataFrame(stored, columns=list(FILES)),
        pd.DataFrame(rows, columns=list(RUNS)),
    ]


def settings_state(workspace: Workspace) -> list[Any]:
    """The log level, the schedule, and who decides it."""
    fixed, stored = backups.schedule_of(os.environ), backups.stored_schedule(workspace)
    schedule = fixed or stored
    note = (
        f"{backups.HOURS} in the server's environment decides the schedule of workers that have it, too."
        if fixed
        else "Without a schedule, backups are made only here and by `clinic backup`."
        if schedule is None
        else "Backups lie in the workspace's own folder; a second copy survives the loss of this disk."
        if not schedule.to
        else ""
    )
    return [
        worker_logs.log_level(workspace),
        schedule.hours if schedule else 0,
        (schedule.keep if schedule else None) or 0,
        schedule.to if schedule else "",
        note,
    ]


def backup_state(workspace: Workspace, name: str) -> list[Any]:
    """What can be done with one backup: its link, and what restoring does."""
    file = backups.backup_file(workspace, name)
    text = (
        f"**{plain(name)}** · {plain(size(file.stat().st_size))} · "
        f"[Download](../api/admin/backups/{name})\n\n"
        "*Check it* restores it in a scratch folder, compares every row and file, and deletes the scratch. "
        "*Restore* writes its workspace to a new folder beside this one, in "
        f"{plain(str(workspace.path.parent))}, and changes nothing here. To use it, stop the server and "
        "start `clinic --workspace FOLDER app`."
    )
    return [text, name, gr.update(visible=True)]


def worker_table(workspace: Workspace) -> pd.DataFrame:
    """Workers with a recent heartbeat."""
    rows = [
        [
            f"{worker.host} · {worker.pid}",
            ", ".join(worker.devices) or "cpu",
            worker.job_id or "idle",
            ago(worker.beat),
        ]
        for worker in workers_alive(workspace)
    ]
    return pd.DataFrame(rows, columns=list(WORKERS))


def disk_use(workspace: Workspace) -> pd.DataFrame:
    """Bytes in each part of the workspace folder, the largest first."""
    parts = {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if entry.is_dir()
        else entry.stat().st_size
        for entry in workspace.path.iterdir()
    }
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return pd.DataFrame([[name, size(count)] for name, count in ordered], columns=list(PARTS))
