"""The training desk: detectors, what they measure, how they were trained, and which one is champion."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import NotFound
from dataengine.records import DetectorVersion
from storage.workspace import Workspace
from ui.curves import curve, curve_choice, figure_names, history, no_curve
from ui.desk import acting, checked, desk, facts, heading, numbers, panel, short, when

PATH = "/train"
STAGES = ("retrain", "train_teacher")
METRICS_SHOWN = 8
TABLE = ("name", "role", "id", "made")


def build_train_desk(workspace: Workspace) -> gr.Blocks:
    """The desk at /train."""
    with desk("Train") as blocks:
        heading("Train", "Detectors find artifacts per pixel. The champion is the one in use everywhere.")
        champion = panel("figures")
        table = gr.Dataframe(headers=list(TABLE), label="Detectors", interactive=False, wrap=True, buttons=[])
        with gr.Row(elem_classes="line"):
            chosen = gr.Dropdown(label="Detector", choices=[], allow_custom_value=True, scale=3)
            reason = gr.Textbox(label="Reason", placeholder="why this one", max_length=300, scale=3)
            promote = gr.Button("Make champion", variant="primary", scale=1, min_width=170)
            rollback = gr.Button("Roll back", scale=1)
        figure = gr.Dropdown(label="Curve", choices=[], allow_custom_value=True, visible=False)
        plot = gr.LinePlot(x="step", y="value", label="Training", height=300, visible=False)
        with gr.Row():
            metrics = panel("facts", label="Metrics")
            config = panel("facts", label="Settings")

    @checked(PATH, "seeing detectors")
    def load(request: gr.Request) -> tuple[Any, ...]:
        return overview(workspace)

    @checked(PATH, "seeing detectors")
    def show(detector_id: str | None, request: gr.Request) -> tuple[Any, ...]:
        return details(workspace, detector_id)

    @checked(PATH, "seeing detectors")
    def draw(detector_id: str | None, name: str | None, request: gr.Request) -> Any:
        return curve(lines_of(workspace, detector_id), name)

    @checked(PATH, "promoting a detector")
    def promote_it(detector_id: str | None, why: str, request: gr.Request) -> tuple[Any, ...]:
        change_champion(workspace, acting(request, PATH, "promoting a detector"), detector_id, why)
        return overview(workspace)

    @checked(PATH, "rolling back the champion")
    def roll_back(request: gr.Request) -> tuple[Any, ...]:
        with workspace.catalog() as catalog:
            catalog.detectors.rollback(acting(request, PATH, "rolling back the champion"))
            catalog.commit()
        return overview(workspace)

    with blocks:
        shown = [champion, table, chosen]
        blocks.load(load, None, shown, api_name="detectors", show_progress="hidden")
        chosen.change(
            show, [chosen], [metrics, config, figure, plot], api_name="detector", show_progress="hidden"
        )
        figure.change(draw, [chosen, figure], [plot], api_name="curve", show_progress="hidden")
        promote.click(promote_it, [chosen, reason], shown, api_name="promote", show_progress="hidden")
        rollback.click(roll_back, None, shown, api_name="rollback", show_progress="hidden")
    return blocks


def change_champion(workspace: Workspace, actor: str, detector_id: str | None, why: str) -> None:
    """Promote a detector by hand; the audit trail keeps who and why.

    Raises `NotFound`, and `ConfigRefused` where a champion would be replaced and no benchmark is frozen.
    """
    if not detector_id:
        raise NotFound("no detector is chosen; choose one from the list first")
    with workspace.catalog() as catalog:
        if catalog.detectors.champion() is not None:
            catalog.benchmarks.require_frozen()
        catalog.detectors.promote(detector_id, actor, why.strip() or "by hand")
        catalog.commit()


def overview(workspace: Workspace) -> tuple[Any, Any, Any]:
    """The champion's figures, the table of detectors, and the choice among them."""
    with workspace.catalog(read_only=True) as catalog:
        detectors = list(reversed(catalog.detectors.list()))
        champion = catalog.detectors.champion()
    choices = [(f"{one.name} · {one.role} · {one.id[:8]}", one.id) for one in detectors]
    first = champion.id if champion else (detectors[0].id if detectors else None)
    return champion_figures(champion), detector_table(detectors), gr.update(choices=choices, value=first)


def champion_figures(champion: DetectorVersion | None) -> dict[str, Any]:
    """The detector in use and its first measurements."""
    if champion is None:
        return {
            "items": [{"value": "none", "label": "champion: a round's promotion, or you, make the first one"}]
        }
    measured = list(numbers(champion.metrics).items())[:4]
    return {
        "items": [
            {"value": champion.name, "label": f"champion since {when(champion.created)}"},
            *({"value": short(value), "label": name} for name, value in measured),
        ]
    }


def detector_table(detectors: list[DetectorVersion]) -> pd.DataFrame:
    """One row for each detector, with the measurements that most of them have."""
    measured = [numbers(one.metrics) for one in detectors]
    counts = pd.Series([name for one in measured for name in one], dtype=str).value_counts(sort=False)
    names = list(counts.sort_values(ascending=False, kind="stable").index[:METRICS_SHOWN])
    rows = [
        [one.name, one.role, one.id[:8], when(one.created), *(short(figures.get(name)) for name in names)]
        for one, figures in zip(detectors, measured, strict=True)
    ]
    return pd.DataFrame(rows, columns=[*TABLE, *names])


def lines_of(workspace: Workspace, detector_id: str | None) -> list[dict[str, Any]]:
    """The training history behind a detector."""
    if not detector_id:
        return []
    with workspace.catalog(read_only=True) as catalog:
        detector = catalog.detectors.get(detector_id)
    stages = ("train_teacher",) if detector.role == "teacher" else STAGES
    return history(workspace, stages, detector.round_id)


def details(workspace: Workspace, detector_id: str | None) -> tuple[Any, ...]:
    """A detector's measurements, settings, and the curves there are."""
    if not detector_id:
        nothing = {"items": [], "empty": "Choose a detector."}
        return nothing, nothing, *no_curve()
    with workspace.catalog(read_only=True) as catalog:
        detector = catalog.detectors.get(detector_id)
    lineage = {
        "id": detector.id,
        "parent": detector.parent,
        "snapshot": detector.snapshot_id,
        "round": detector.round_id,
    }
    names = figure_names(lines_of(workspace, detector_id))
    return (
        {"items": facts(detector.metrics), "empty": "Not measured yet."},
        {"items": facts({**lineage, "licence": detector.licence or "–", **detector.config})},
        *curve_choice(names),
    )
