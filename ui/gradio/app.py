"""The Gradio app: diagnose and repair, label, hard cases, retrain, treat. Its tabs are files of `tabs/`."""

from typing import Any

import gradio as gr

from ui.gradio.context import AppContext
from ui.gradio.tabs import diagnose, hard_cases, label, retrain, treat
from ui.web.access import IMAGE_VIEWERS, may
from ui.web.gradio_kit import checked, desk

WAITING = 48
"""Calls that may wait in Gradio's queue; whoever comes after that is told that it is full."""
AT_ONCE = 8
TABS = (
    ("Diagnose and repair", diagnose.DIAGNOSING, diagnose.build),
    ("Label", label.ANNOTATORS, label.build),
    ("Hard cases", hard_cases.SELECTING, hard_cases.build),
    ("Retrain", retrain.ENGINEERS, retrain.build),
    ("Treat", treat.ENGINEERS, treat.build),
)


def build_app(context: AppContext) -> gr.Blocks:
    """The app over a workspace."""
    with desk("Gradio") as blocks:
        gr.Markdown(
            "# Artifact Clinic\nFind artifacts pixel by pixel, label hard cases, retrain the detector, and "
            "treat the generator."
        )
        with gr.Tabs() as all_tabs:
            tabs = []
            for title, _, build in TABS:
                with gr.Tab(title, id=title) as tab:
                    build(context, tab)
                tabs.append(tab)

        @checked(IMAGE_VIEWERS, "seeing this page")
        def own_tabs(request: gr.Request) -> list[Any]:
            return tabs_of(request)

        blocks.load(own_tabs, None, [all_tabs, *tabs], api_visibility="private", show_progress="hidden")
    blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE)
    return blocks


def tabs_of(request: gr.Request) -> list[Any]:
    """Which tab to open first, and whether each is shown, by the person's roles."""
    held = request.request.state.person.roles
    shown = [may(held, roles) for _, roles, _ in TABS]
    # Whoever has the first tab keeps the one that they have meanwhile chosen.
    first = gr.skip() if shown[0] else gr.update(selected=TABS[shown.index(True)][0])
    return [first, *(gr.update(visible=one) for one in shown)]
