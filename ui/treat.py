"""The treating desk: LoRA treatments, their figures and curves, and the same seeds before and after."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.records import Image, Treatment
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.curves import POINTS
from ui.desk import checked, desk, facts, heading, panel, short, when
from ui.pictures import TILE, at_height, decode, heat, strip

PATH = "/treat"
PAIRS = 12
JUDGED = ("mean_confidence", "max_confidence", "frequency", "detail", "diversity")


def build_treat_desk(workspace: Workspace) -> gr.Blocks:
    """The desk at /treat."""
    with desk("Treat") as blocks:
        heading(
            "Treat",
            "A generator fine-tuned until a frozen detector finds less to mark, under a quality guard.",
        )
        chosen = gr.Dropdown(label="Treatment", choices=[], allow_custom_value=True)
        figures = panel("figures")
        gr.Markdown("Same prompt, same seed: before, after, and what the detector sees in both.")
        gallery = gr.Gallery(
            show_label=False,
            columns=2,
            object_fit="contain",
            height="auto",
            buttons=["fullscreen"],
            elem_classes="crisp tiles pairs",
        )
        plot = gr.LinePlot(x="step", y="value", label="Confidence by update", height=300, visible=False)
        with gr.Row():
            results = panel("facts", label="Result")
            config = panel("facts", label="Settings")

    @checked(PATH, "seeing treatments")
    def load(request: gr.Request) -> tuple[Any, ...]:
        found = choices(workspace)
        return found, *details(workspace, found["value"])

    @checked(PATH, "seeing treatments")
    def show(treatment_id: str | None, request: gr.Request) -> tuple[Any, ...]:
        return details(workspace, treatment_id)

    with blocks:
        shown = [figures, gallery, results, config, plot]
        blocks.load(load, None, [chosen, *shown], api_name="treatments", show_progress="hidden")
        chosen.input(show, [chosen], shown, api_name="treatment", show_progress="hidden")
    return blocks


def choices(workspace: Workspace) -> Any:
    """All treatments, the newest chosen."""
    with workspace.catalog(read_only=True) as catalog:
        runs = list(reversed(catalog.treatments.list()))
        names = {one.id: one.name for one in catalog.generators.list()}
    found = [
        (f"{names.get(one.generator_id, one.generator_id)} · {when(one.created)}", one.id) for one in runs
    ]
    return gr.update(choices=found, value=runs[0].id if runs else None)


def details(workspace: Workspace, treatment_id: str | None) -> tuple[Any, ...]:
    """A treatment's headline figures, pairs, result, settings and curves."""
    if not treatment_id:
        nothing = {"items": [], "empty": "No treatment yet. A round's treat stage makes one."}
        return nothing, [], nothing, {"items": []}, plotted([])
    with workspace.catalog(read_only=True) as catalog:
        run = catalog.treatments.get(treatment_id)
        pairs = before_and_after(catalog, run)
        judged = judged_figures(catalog, run)
        maps = {one.image_id: one.map_ref for one in catalog.predictions.of(run.detector_id, ids_of(pairs))}
    made_of = {
        "generator": run.generator_id,
        "detector": run.detector_id,
        "treated": run.treated_id,
        "round": run.round_id,
    }
    return (
        headline_figures(run, judged),
        [(pair_tile(workspace, pair, maps), pair[0].prompt) for pair in pairs],
        {"items": facts({**run.result, **judged})},
        {"items": facts({**made_of, **run.config})},
        plotted(run.result.get("curve", [])),
    )


def judged_figures(catalog: Catalog, run: Treatment) -> dict[str, Any]:
    """What the round's judge stage measured on held-out prompts; empty before it has."""
    rounds = {one.id: one for one in catalog.rounds.list()}
    return dict(rounds[run.round_id].results.get("judge", {})) if run.round_id in rounds else {}


def headline_figures(run: Treatment, judged: dict[str, Any]) -> dict[str, Any]:
    """The figures that say whether it worked."""
    found = [
        {"value": short(judged[name]["ratio"]), "label": f"{name.replace('_', ' ')}, after / before"}
        for name in JUDGED
        if name in judged
    ]
    if "attributes" in judged:
        found.append({"value": short(judged["attributes"]["drop"]), "label": "attributes lost"})
    if "kept" in run.result:
        kept, updates = run.result["kept"], run.result.get("updates", "?")
        found.append(
            {"value": f"{kept} / {updates}", "label": f"update kept; {run.result.get('stopped', '')}"}
        )
    return {"items": found, "empty": "Nothing was measured yet."}


def plotted(curve: list[list[float]]) -> Any:
    """The plot of confidence by update; hidden without a curve."""
    points = pd.DataFrame(curve, columns=["step", "value"])
    return gr.update(value=points.iloc[:: max(1, len(points) // POINTS)], visible=len(points) > 0)


def before_and_after(catalog: Catalog, run: Treatment) -> list[tuple[Image, Image]]:
    """Images of the treated generator, each with the base generator's of the same prompt and seed."""
    if run.treated_id is None:
        return []
    treated = catalog.images.find(generator_id=run.treated_id, limit=10 * PAIRS)
    purposes, rounds = {one.purpose for one in treated}, {one.round_id for one in treated} - {None}
    base = catalog.images.find(generator_id=run.generator_id, purpose=purposes, round_id=rounds or None)
    by_key = {(one.prompt, one.seed): one for one in base}
    pairs = [(by_key[one.prompt, one.seed], one) for one in treated if (one.prompt, one.seed) in by_key]
    return sorted(pairs, key=lambda pair: (pair[0].prompt, pair[0].seed or 0))[:PAIRS]


def ids_of(pairs: list[tuple[Image, Image]]) -> list[str]:
    """The ids of all images in the pairs."""
    return [image.id for pair in pairs for image in pair]


def pair_tile(workspace: Workspace, pair: tuple[Image, Image], maps: dict[str, str | None]) -> Any:
    """Before and after, and where there are maps, both maps to the right."""
    images = [at_height(decode(workspace.blobs.get(image.sha256)), TILE) for image in pair]
    refs = [maps.get(image.id) for image in pair]
    seen = [heat(pixels, workspace.maps.get(ref)) for pixels, ref in zip(images, refs, strict=True) if ref]
    return strip([*images, *seen] if len(seen) == len(images) else images)
