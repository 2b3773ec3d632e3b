"""The tab of erasures: what would go, what stays, and the erasure itself."""

import re
from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from pipelines.services.admin import maintenance
from pipelines.services.admin.maintenance import Erased
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, acting, checked

REMAINS = ("what", "name", "what you can do")
COUNTS = ("what", "number")
PERSON, IMAGES = "A person", "Images"
MOST_IDS = 10_000
ABOUT = (
    "Deletes images with everything attached to them, or everything that a person made: account, labels, "
    "reviews, comments, votes. Texts, logs and rows that others depend on keep a pseudonym. This cannot be "
    "undone. First see what would go, and what keeps something of it."
)


def erasure_tab(workspace: Workspace) -> None:
    """Build the tab inside the open one."""
    gr.Markdown(ABOUT, container=False, elem_classes="hint")
    with gr.Row(elem_classes="line"):
        kind = gr.Radio([PERSON, IMAGES], value=PERSON, label="Erase", min_width=180)
        named = gr.Textbox(
            label="Name of the person, or ids of images (one a line, or by commas)",
            max_length=700_000,
            lines=2,
            scale=3,
        )
        look = gr.Button("See what would go", size="sm", min_width=150)
    summary = gr.Markdown(container=False)
    counts = gr.Dataframe(headers=list(COUNTS), interactive=False, label="Erased", visible=False, **SHOWN)
    remains = gr.Dataframe(
        headers=list(REMAINS), interactive=False, label="What keeps something of it", visible=False, **SHOWN
    )
    with gr.Row(elem_classes="line", visible=False) as confirmation:
        confirm = gr.Textbox(label="Type ERASE to go on", max_length=20, scale=2)
        erase = gr.Button("Erase for good", variant="stop", size="sm", min_width=150)
    outputs = [summary, counts, remains, confirmation, confirm]

    def carry_out(kind: str, named: str, actor: str, trial: bool) -> Erased:
        if kind == PERSON:
            if not named.strip():
                raise InputRefused("name the person to erase")
            return maintenance.erase_person(workspace, named.strip(), actor, trial)
        ids = [one for one in re.split(r"[\s,;]+", named) if one]
        if not 1 <= len(ids) <= MOST_IDS:
            raise InputRefused(f"name 1 to {MOST_IDS:,} images by their ids, not {len(ids):,}")
        return maintenance.erase_images(workspace, ids, actor, trial)

    @checked(ADMINS, "erasing")
    def try_out(kind: str, named: str, request: gr.Request) -> list[Any]:
        erased = carry_out(kind, named, acting(request, ADMINS, "erasing"), trial=True)
        return report(erased, "Nothing is erased yet. This would go:", confirmable=True)

    @checked(ADMINS, "erasing")
    def start_over(request: gr.Request) -> Any:
        """What is confirmed is what was looked at."""
        return gr.update(visible=False)

    @checked(ADMINS, "erasing")
    def go_on(kind: str, named: str, typed: str, request: gr.Request) -> list[Any]:
        if typed.strip() != "ERASE":
            raise InputRefused("type ERASE into the field beside the button: this cannot be undone")
        erased = carry_out(kind, named, acting(request, ADMINS, "erasing"), trial=False)
        return report(erased, "Erased.", confirmable=False)

    look.click(try_out, [kind, named], outputs, api_name="erase_trial")
    erase.click(go_on, [kind, named, confirm], outputs, api_name="erase")
    for field in (kind, named):
        field.input(start_over, None, [confirmation], api_name=False, **READING)


def report(erased: Erased, lead: str, confirmable: bool) -> list[Any]:
    """What went or would go, and what keeps something of it with what can be done about it."""
    made = ("snapshots", "detectors", "treatments", "generators", "benchmarks")
    rows = [[name, getattr(erased, name)] for name in ("images", "labels", "reviews", "votes", "blobs")] + [
        [place, count] for place, count in erased.columns.items()
    ]
    kept = [[one.kind, one.name, one.advice] for one in erased.remains] or [
        [kind.removesuffix("s"), id, "already made from this data, and kept"]
        for kind in made
        for id in getattr(erased, kind)
    ]
    return [
        lead,
        gr.update(value=pd.DataFrame(rows, columns=list(COUNTS)), visible=True),
        gr.update(value=pd.DataFrame(kept, columns=list(REMAINS)), visible=bool(kept)),
        gr.update(visible=confirmable),
        "",
    ]
