"""Retrain: one click trains a detector on the newest labels; curves, verdict and promotion follow."""

from typing import Any

import gradio as gr

from dataengine.errors import InputRefused
from pipelines.config import TrainingRun
from pipelines.services import preflight, runs
from pipelines.services.detectors import objections_to, promote_detector, verdicts_on
from pipelines.services.training.presets import RECIPE, training_presets
from storage.workspace import Workspace
from ui.gradio.context import ANY, SMALL, AppContext, check_lines, figure, person, worker_note
from ui.gradio.runs import POLL_SECONDS, curve_of, is_open, no_curve, run_choices, status_text
from ui.web.access import ENGINEERS
from ui.web.gradio_kit import checked, plain

SEEING, TRAINING, PROMOTING = "seeing trainings", "training detectors", "promoting detectors"


def build(context: AppContext, tab: gr.Tab) -> None:
    """The tab's components and events."""
    workspace, kind = context.workspace, runs.TRAINING
    decided = gr.State([None, None])
    note = gr.Markdown()
    with gr.Row(elem_classes="line"):
        preset = gr.Dropdown([], label="Settings", **ANY, scale=3)
        start = gr.Button("Retrain", variant="primary", scale=1)
    checks = gr.Markdown()
    with gr.Row(elem_classes="line"):
        run = gr.Dropdown([], label="Run", **ANY, scale=3)
        cancel = gr.Button("Cancel", scale=1)
    status = gr.Markdown("No training yet.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3):
            name = gr.Dropdown([], label="Curve", visible=False, **ANY)
            curve = gr.LinePlot(x="step", y="value", height=260, show_label=False, visible=False)
        with gr.Column(scale=2):
            verdict = gr.Markdown("The verdict appears when a training has ended.")
            reason = gr.Textbox(
                label="Reason", info="needed where the figures speak against it", max_length=1000
            )
            promote = gr.Button("Promote to champion", interactive=False)
    if context.desks:
        gr.Markdown("All settings, worst images and calibration are on [the Train desk](../train).")
    timer = gr.Timer(POLL_SECONDS, active=False)

    @checked(ENGINEERS, SEEING)
    def show(preset: str | None, run: str | None, request: gr.Request) -> tuple[Any, ...]:
        return worker_note(workspace), preset_choices(workspace, preset), run_choices(workspace, kind, run)

    @checked(ENGINEERS, SEEING)
    def check(preset: str | None, request: gr.Request) -> str:
        return check_lines(preflight.training_checks(workspace, plan_of(workspace, preset)))

    @checked(ENGINEERS, TRAINING)
    def train(preset: str | None, request: gr.Request) -> Any:
        actor = person(request, ENGINEERS, TRAINING)
        job = runs.start_training(workspace, plan_of(workspace, preset), actor)
        return run_choices(workspace, kind, job.args["run"])

    @checked(ENGINEERS, SEEING)
    def watch(run: str | None, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        return standing(workspace, run, name)

    @checked(ENGINEERS, TRAINING)
    def stop(run: str | None, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        actor = person(request, ENGINEERS, TRAINING)
        runs.cancel_run(workspace, runs.run_of(workspace, kind, run or ""), actor)
        return standing(workspace, run, name)

    @checked(ENGINEERS, PROMOTING)
    def promote_chosen(decided: list[str | None], reason: str, request: gr.Request) -> tuple[str, Any, str]:
        candidate, champion = decided
        if candidate is None:
            raise InputRefused("this run has made no detector yet; wait until it has ended")
        actor = person(request, ENGINEERS, PROMOTING)
        made = promote_detector(workspace, candidate, actor, reason, champion)
        return f"**{plain(made.name)}** is champion now.", gr.update(interactive=False), ""

    quiet = {"show_progress": "hidden"}
    seen = [status, name, curve, verdict, decided, promote, timer]
    tab.select(show, [preset, run], [note, preset, run], api_name="trainings", **quiet)
    preset.change(check, [preset], [checks], api_name="training_checks", **quiet)
    start.click(train, [preset], [run], api_name="start_training")
    run.change(watch, [run, name], seen, api_name="training_status", **quiet)
    name.input(watch, [run, name], seen, api_visibility="private", **quiet)
    timer.tick(watch, [run, name], seen, api_visibility="private", concurrency_limit=None, **quiet)
    cancel.click(stop, [run, name], seen, api_name="cancel_training", **quiet)
    promote.click(promote_chosen, [decided, reason], [verdict, promote, reason], api_name="promote")


def preset_choices(workspace: Workspace, chosen: str | None) -> Any:
    """The presets of a training; the chosen one stays, else the small recipe where no worker has a GPU."""
    names = list(training_presets(workspace))
    small = RECIPE + SMALL
    first = names[0] if preflight.on_a_gpu(workspace) else small
    return gr.update(choices=[(one.removeprefix(RECIPE), one) for one in names], value=chosen or first)


def plan_of(workspace: Workspace, preset: str | None) -> TrainingRun:
    """The training of a preset. Raises `InputRefused` for none."""
    presets = training_presets(workspace)
    if preset not in presets:
        raise InputRefused("no settings are chosen; choose some from the list")
    return TrainingRun.model_validate(presets[preset])


def standing(workspace: Workspace, run_id: str | None, name: str | None) -> tuple[Any, ...]:
    """State, curve, verdict, what a promotion would decide, and whether to look again."""
    if not run_id:
        text, decided = verdict_on(workspace, None)
        return "No training yet.", *no_curve(), text, decided, off(), gr.update(active=False)
    status = runs.run_status(workspace, runs.run_of(workspace, runs.TRAINING, run_id))
    figures, points = curve_of(workspace, runs.TRAINING, run_id, name)
    text, decided = verdict_on(workspace, status["result"].get("detector"))
    running = is_open(status)
    button = gr.update(interactive=decided[0] is not None and decided[0] != decided[1])
    return status_text(status), figures, points, text, decided, button, gr.update(active=running)


def off() -> Any:
    """The button that cannot be pressed."""
    return gr.update(interactive=False)


def verdict_on(workspace: Workspace, detector_id: str | None) -> tuple[str, list[str | None]]:
    """How the trained detector compares with the champion, as Markdown; both ids."""
    with workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
        if detector_id is None:
            return "The verdict appears when a training has ended.", [None, champion.id if champion else None]
        candidate = catalog.detectors.get(detector_id)
    seen = champion.id if champion else None
    if candidate.id == seen:
        return f"**{plain(candidate.name)}** is the champion.", [detector_id, seen]
    lines = [f"- {plain(one['text'])}" for one in verdicts_on(candidate, champion)]
    lines = lines or [f"- {name}: {figure(value)}" for name, value in measured(candidate.metrics).items()]
    against = [f"⚠ {plain(text)}" for text in objections_to(candidate, champion)]
    head = (
        f"**{plain(candidate.name)}** against {plain(champion.name)}"
        if champion
        else f"**{plain(candidate.name)}**"
    )
    return "\n\n".join([head, "\n".join(lines), *against]), [detector_id, seen]


def measured(metrics: dict[str, Any]) -> dict[str, float]:
    """The main figures on validation."""
    found = metrics.get("validation", {})
    return {name: found[name] for name in ("mse", "kl", "kl1m") if name in found}
