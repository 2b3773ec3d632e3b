"""Training curves from the metrics files of jobs, thinned for `gr.LinePlot`."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.records import Job
from pipelines import requests
from storage.workspace import Workspace

POINTS = 1000
COLUMNS = ("step", "value")
NOT_FIGURES = frozenset({"time", "done", "total"})


def stage_jobs(workspace: Workspace, stages: tuple[str, ...], round_id: str | None) -> list[Job]:
    """The jobs of those stages of a round, newest first."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(kind=requests.STAGE_JOB)
    return [one for one in jobs if one.args.get("stage") in stages and one.args.get("round_id") == round_id]


def history(workspace: Workspace, stages: tuple[str, ...], round_id: str | None) -> list[dict[str, Any]]:
    """The figures over time of the newest such job that wrote any."""
    for job in stage_jobs(workspace, stages, round_id):
        if lines := requests.read_metrics(workspace, job.id, POINTS):
            return lines
    return []


def figure_names(lines: list[dict[str, Any]]) -> list[str]:
    """The figures that the lines hold, losses first."""
    names = {
        name for line in lines for name, value in line.items() if isinstance(value, int | float)
    } - NOT_FIGURES
    return sorted(names, key=lambda name: ("loss" not in name, name))


def curve(lines: list[dict[str, Any]], figure: str | None) -> pd.DataFrame:
    """One figure against the step, as the plot takes it; empty without such a figure."""
    points = [
        (line.get("done", at), line[figure]) for at, line in enumerate(lines) if figure and figure in line
    ]
    return pd.DataFrame(points, columns=list(COLUMNS))


def curve_choice(names: list[str]) -> tuple[Any, Any]:
    """Updates of the choice of figures and of the plot; both hide while there is nothing to plot."""
    first = names[0] if names else None
    return gr.update(choices=names, value=first, visible=bool(names)), gr.update(visible=bool(names))


def no_curve() -> tuple[Any, Any]:
    """Updates that hide the choice of figures and the plot."""
    return curve_choice([])
