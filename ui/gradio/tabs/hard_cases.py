"""Hard cases: which categories the detector finds flawed, and sending their images to people."""

from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from pipelines.services.categories import Ask, category_report, detectors_to_try, send_to_people
from storage.workspace import Workspace
from ui.gradio.context import ANY, AppContext, figure, percent, person
from ui.web.access import roles
from ui.web.gradio_kit import checked, plain

SELECTING = roles("curator", "engineer")
COLUMNS = ("category", "images", "mean confidence", "90th percentile", "above threshold", "test", "p (Holm)")
VERDICTS = {"hard": "hard", "easy": "not hard", "too few": "too few images"}


def build(context: AppContext, tab: gr.Tab) -> None:
    """The tab's components and events."""
    workspace = context.workspace
    lead = gr.Markdown()
    table = gr.Dataframe(headers=list(COLUMNS), interactive=False, label="Categories", buttons=[], wrap=True)
    with gr.Row(equal_height=False):
        chosen = gr.Dropdown([], multiselect=True, label="Categories to send", scale=3, **ANY)
        threshold = gr.Slider(0, 1, value=0.5, step=0.01, label="From this confidence on", scale=2)
    with gr.Row():
        opinions = gr.Slider(1, 9, value=1, step=1, label="Annotators per image")
        limit = gr.Slider(1, 2000, value=100, step=1, label="Images at most")
        people = gr.Dropdown([], multiselect=True, label="Only these people", info="none: anybody", **ANY)
    send = gr.Button("Send to people", variant="primary")
    outcome = gr.Markdown()
    if context.desks:
        gr.Markdown("[Images, reviews and benchmarks](../curate) are on the Curate desk.")

    @checked(SELECTING, "seeing hard categories")
    def show(request: gr.Request) -> tuple[Any, ...]:
        return (*categories(workspace), accounts(workspace))

    @checked(SELECTING, "sending images to people")
    def submit(
        names: list[str],
        threshold: float,
        opinions: float,
        limit: float,
        people: list[str] | None,
        request: gr.Request,
    ) -> str:
        if not names:
            raise InputRefused("no category is chosen; choose one or more")
        body = Ask(
            thresholds=dict.fromkeys(names, threshold),
            annotations_per_image=int(opinions),
            limit=int(limit),
            people=people or [],
        )
        sent = send_to_people(workspace, body, person(request, SELECTING, "sending images to people"))
        return f"**{sent}** images wait for people now. They come up under Label and at /annotate."

    shown = [lead, table, chosen, threshold, people]
    tab.select(show, None, shown, api_name="hard_categories", show_progress="hidden")
    send.click(submit, [chosen, threshold, opinions, limit, people], [outcome], api_name="send_to_people")


def categories(workspace: Workspace) -> tuple[Any, ...]:
    """The lead, the table, the choices and the detector's own threshold."""
    with workspace.catalog(read_only=True) as catalog:
        for detector in detectors_to_try(catalog):
            report = category_report(catalog, detector)
            if report["categories"]:
                break
        known = {one.id: one.name for one in catalog.detectors.list()}
    rows = [row_of(one, report["threshold"]) for one in report["categories"]]
    if not rows:
        lead = "No image has a category and a map yet. Start a round at /rounds, or import images."
    else:
        hard = [plain(one["category"]) for one in report["categories"] if one["verdict"] == "hard"]
        named = plain(known.get(report["detector"] or "", "the detector"))
        lead = (
            f"By {named}: {len(hard)} of {len(rows)} categories are hard"
            + f" ({', '.join(hard)})." * bool(hard)
        )
    names = [one["category"] for one in report["categories"]]
    hardest = [one["category"] for one in report["categories"] if one["verdict"] == "hard"] or names[:1]
    return (
        lead,
        pd.DataFrame(rows, columns=list(COLUMNS)),
        gr.update(choices=names, value=hardest),
        round(report["threshold"], 2),
    )


def row_of(one: dict[str, Any], threshold: float) -> list[Any]:
    """A category's line of the table."""
    return [
        one["category"],
        one["images"],
        figure(one["mean"]),
        figure(one["p90"]),
        percent(one["above"][round(100 * threshold)]),
        VERDICTS.get(one["verdict"], one["verdict"]),
        figure(one["p"]),
    ]


def accounts(workspace: Workspace) -> Any:
    """People who may label."""
    with workspace.catalog(read_only=True) as catalog:
        users = [
            one for one in catalog.users.list() if one.active and {"annotator", "curator"} & set(one.roles)
        ]
    return gr.update(choices=[one.name for one in users], value=[])
