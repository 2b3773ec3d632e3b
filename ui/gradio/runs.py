"""What Retrain and Treat share: the list of runs, a run's state in words, its curves."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
import pandas as pd

from pipelines.services import queue, runs
from storage.workspace import Workspace
from ui.runs.routes import run_rows
from ui.web.gradio_kit import plain, when

LISTED = 50
BAR = 24
"""Characters of a progress bar."""
POLL_SECONDS = 2.0
POINTS = ("step", "value")


def run_choices(workspace: Workspace, kind: str, chosen: str | None = None) -> Any:
    """The newest runs; the chosen one stays, else the newest is taken."""
    rows = run_rows(workspace, kind)[:LISTED]
    known = [row["run"] for row in rows]
    return gr.update(
        choices=[
            (" · ".join(filter(None, (row["name"], when(row["created"]), row["by"]))), row["run"])
            for row in rows
        ],
        value=chosen if chosen in known else next(iter(known), None),
    )


def status_text(status: dict[str, Any]) -> str:
    """A run's state and progress, as Markdown."""
    done = round(BAR * status["progress"])
    words = [f"**{status['state']}**", f"`{'█' * done}{'░' * (BAR - done)}` {status['progress']:.0%}"]
    if status.get("step"):
        words.append(f"step {status['step']:,.0f} of {status['total']:,.0f}")
    if status.get("left"):
        words.append(
            f"{status['left'] / 60:.0f} min left" if status["left"] >= 90 else "less than 2 min left"
        )
    if status["position"]:
        words.append(f"number {status['position']} in the queue")
    said = status["error"] or (status["message"] if is_open(status) else "")
    lines = [" · ".join(words), plain(said), plain(status["note"])]
    return "\n\n".join(filter(None, lines))


def is_open(status: dict[str, Any]) -> bool:
    """Whether the run may still change."""
    return status["state"] in queue.OPEN


def curve_of(workspace: Workspace, kind: str, run_id: str, figure: str | None) -> tuple[Any, Any]:
    """The figures that a run has, and the chosen one's values by step; hidden while there are none."""
    curves = runs.curves(workspace, runs.run_of(workspace, kind, run_id).jobs)
    names = sorted(curves, key=lambda name: (not name.startswith("validation"), name))
    name = figure if figure in curves else preferred(names)
    steps, values = curves.get(name or "", ([], []))
    points = pd.DataFrame({"step": steps, "value": values}, columns=list(POINTS))
    shown = bool(steps)
    return gr.update(choices=names, value=name, visible=shown), gr.update(value=points, visible=shown)


def no_curve() -> tuple[Any, Any]:
    """What is shown of a run that is not there."""
    return gr.update(choices=[], value=None, visible=False), gr.update(visible=False)


def preferred(names: Sequence[str]) -> str | None:
    """The figure that is shown first: the loss, else any."""
    return next((name for name in names if name in ("loss", "confidence")), next(iter(names), None))
