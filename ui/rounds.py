"""The rounds desk: where each round stands, what its stages brought, jobs with their logs, and who works."""

from typing import Any

import gradio as gr

from dataengine.errors import NotFound
from dataengine.records import Job, Round
from pipelines import requests
from storage.queries import RoundProgress, round_progress
from storage.workspace import Workspace
from ui.desk import acting, ago, checked, desk, facts, heading, panel, refresh, short, when

PATH = "/rounds"
JOBS_SHOWN = 20


def build_rounds_desk(workspace: Workspace) -> gr.Blocks:
    """The desk at /rounds."""
    with desk("Rounds") as blocks:
        heading("Rounds", "The loop from drawing to judging: where it stands and what each stage brought.")
        chosen = gr.Dropdown(label="Round", choices=[], allow_custom_value=True)
        figures = panel("figures")
        stages = panel("stages", label="Stages")
        with gr.Row():
            with gr.Column(scale=3):
                jobs = panel("rows", label="Jobs")
                with gr.Row(elem_classes="line"):
                    job = gr.Dropdown(label="Job", choices=[], allow_custom_value=True, scale=3)
                    cancel = gr.Button("Cancel", variant="stop", scale=1)
                    resume = gr.Button("Resume", scale=1)
                log = panel("text", label="Log")
            with gr.Column(scale=2):
                workers = panel("rows", label="Workers")
                results = panel("facts", label="Results")

    @checked(PATH, "seeing rounds")
    def choices(request: gr.Request) -> tuple[Any, Any]:
        return round_choices(workspace), job_choices(workspace)

    @checked(PATH, "seeing rounds")
    def show(round_id: str | None, job_id: str | None, request: gr.Request) -> tuple[Any, ...]:
        return (
            *round_panels(workspace, round_id),
            job_rows(workspace),
            worker_rows(workspace),
            log_tail(workspace, job_id),
        )

    @checked(PATH, "cancelling a job")
    def cancel_job(job_id: str | None, request: gr.Request) -> dict[str, Any]:
        requests.cancel_job(workspace, wanted(job_id), acting(request, PATH, "cancelling a job"))
        return job_rows(workspace)

    @checked(PATH, "resuming a job")
    def resume_job(job_id: str | None, request: gr.Request) -> dict[str, Any]:
        requests.resume_job(workspace, wanted(job_id), acting(request, PATH, "resuming a job"))
        return job_rows(workspace)

    with blocks:
        shown = [figures, stages, results, jobs, workers, log]
        blocks.load(choices, None, [chosen, job], api_name="choices")
        refresh(blocks, show, [chosen, job], shown, api_name="round")
        for picker in (chosen, job):
            picker.change(show, [chosen, job], shown, api_name=False, show_progress="hidden")
        cancel.click(cancel_job, [job], [jobs], api_name="cancel_job")
        resume.click(resume_job, [job], [jobs], api_name="resume_job")
    return blocks


def wanted(job_id: str | None) -> str:
    """The chosen job's id. Raises `NotFound` when none is chosen."""
    if not job_id:
        raise NotFound("no job is chosen; choose one from the list first")
    return job_id


def round_choices(workspace: Workspace) -> Any:
    """All rounds, the newest chosen."""
    with workspace.catalog(read_only=True) as catalog:
        rounds = list(reversed(catalog.rounds.list()))
    choices = [(f"{one.id} · {one.state}", one.id) for one in rounds]
    return gr.update(choices=choices, value=rounds[0].id if rounds else None)


def job_choices(workspace: Workspace) -> Any:
    """The newest jobs, the newest chosen."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(limit=JOBS_SHOWN)
    choices = [(f"{job_title(one)} · {one.state}", one.id) for one in jobs]
    return gr.update(choices=choices, value=jobs[0].id if jobs else None)


def round_panels(workspace: Workspace, round_id: str | None) -> tuple[Any, Any, Any]:
    """Figures, stages and results of a round, the newest if none is chosen."""
    with workspace.catalog(read_only=True) as catalog:
        rounds = catalog.rounds.list()
    round_id = round_id or (rounds[-1].id if rounds else None)
    if round_id is None:
        nothing = {"items": [], "empty": "No round yet. “clinic round” or “clinic demo” starts one."}
        return {"items": [{"value": "–", "label": "no round yet"}]}, nothing, {"items": []}
    with workspace.catalog(read_only=True) as catalog:
        progress = round_progress(catalog, round_id)
    return (
        round_figures(progress),
        round_stages(progress.round),
        {"items": facts(progress.round.results), "empty": "No stage is done yet."},
    )


def round_figures(progress: RoundProgress) -> dict[str, Any]:
    """A round's counts."""
    return {
        "items": [
            {
                "value": progress.round.state,
                "label": progress.round.message or f"since {when(progress.round.created)}",
            },
            {"value": short(sum(progress.images.values())), "label": "images"},
            {"value": ", ".join(progress.hard_categories) or "–", "label": "hard categories"},
            {"value": f"{progress.answered} / {progress.queued}", "label": "labels given"},
            {"value": short(progress.pseudo_labels), "label": "pseudo-labels"},
        ]
    }


def round_stages(row: Round) -> dict[str, Any]:
    """The stages in order, each done, current or ahead."""
    return {
        "items": [
            {"name": name.replace("_", " "), "state": stage_state(row, name)}
            for name in requests.stage_names()
        ]
    }


def stage_state(row: Round, name: str) -> str:
    """How a stage of the round stands."""
    if name in row.results:
        return "done"
    return row.state if name == row.stage else "ahead"


def job_title(job: Job) -> str:
    """What a job does, in a few words."""
    return f"{job.kind} {job.args.get('stage', '')}".strip().replace("_", " ")


def job_rows(workspace: Workspace) -> dict[str, Any]:
    """The newest jobs with progress."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(limit=JOBS_SHOWN)
    return {
        "empty": "No job was asked for yet.",
        "items": [
            {
                "title": job_title(job),
                "sub": job.error or job.message or job.id,
                "state": job.state,
                "progress": job.progress,
                "note": ago(job.finished or job.heartbeat or job.created),
            }
            for job in jobs
        ],
    }


def worker_rows(workspace: Workspace) -> dict[str, Any]:
    """Workers that give signs of life."""
    return {
        "empty": "No worker is running: jobs wait. Start one with “clinic worker”.",
        "items": [
            {
                "title": f"{worker.host} · {worker.pid}",
                "sub": worker.job_id or "idle",
                "note": ", ".join(worker.devices) or "cpu",
            }
            for worker in requests.workers_alive(workspace)
        ],
    }


def log_tail(workspace: Workspace, job_id: str | None) -> dict[str, Any]:
    """The end of a job's log, the newest job's if none is chosen."""
    with workspace.catalog(read_only=True) as catalog:
        newest = catalog.jobs.list(limit=1)
    job_id = job_id or (newest[0].id if newest else None)
    lines = requests.read_log(workspace, job_id).splitlines() if job_id else []
    return {"items": lines[-200:], "empty": "This job has written no log on this machine."}
