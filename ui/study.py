"""The study desk: which blind comparisons are open, and how far they are."""

from typing import Any

import gradio as gr

from storage.queries import study_progress
from storage.workspace import Workspace
from ui.desk import checked, desk, heading, panel, refresh, when

PATH = "/study"


def build_study_desk(workspace: Workspace) -> gr.Blocks:
    """The desk at /study."""
    with desk("Study") as blocks:
        heading("Study", "Blind judging of the same prompt and seed, before and after treatment.")
        studies = panel("rows", label="Studies")

    @checked(PATH, "seeing studies")
    def show(request: gr.Request) -> dict[str, Any]:
        return study_rows(workspace)

    with blocks:
        refresh(blocks, show, [], [studies], api_name="studies")
    return blocks


def study_rows(workspace: Workspace) -> dict[str, Any]:
    """Every study with its state and votes. It names neither generator: raters are blind."""
    with workspace.catalog(read_only=True) as catalog:
        found = [(study, study_progress(catalog, study.id)) for study in catalog.studies.list()]
    return {
        "empty": "No study yet. A round that judges by people opens one.",
        "items": [
            {
                "title": study.name,
                "sub": f"{progress.pairs} pairs, {progress.votes} answers by {len(progress.by_rater)} people",
                "state": study.state,
                "note": when(study.created),
            }
            for study, progress in reversed(found)
        ],
    }
