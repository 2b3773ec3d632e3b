"""The tab of label classes."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd

from dataengine.errors import InputRefused
from dataengine.records import LabelClass
from pipelines.services.admin import classes
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, acting, checked, plain

CLASSES = ("place", "name", "colour", "state", "value in label maps")
QUIET: dict[str, Any] = {"show_progress": "hidden"}
ABOUT = (
    "What people mark on images. The three classes of DiffDoctor are the default. Label maps hold a class by "
    "its value, so a new name or colour also applies to earlier labels. A retired class is no longer "
    "offered; labels that use it stay as they are. Select a row to change that class."
)


def classes_tab(workspace: Workspace, tab: gr.Tab) -> None:
    """Build the tab inside the open one, and load it when that is opened."""
    gr.Markdown(ABOUT, container=False, elem_classes="hint")
    table = gr.Dataframe(headers=list(CLASSES), interactive=False, label="Label classes", **SHOWN)
    seen = gr.State(None)
    with gr.Column(visible=False, elem_classes="editor") as editor:
        title = gr.Markdown(padding=True)
        with gr.Row(elem_classes="line"):
            name = gr.Textbox(label="Name", max_length=60, scale=3)
            color = gr.Textbox(label="Colour (#d55e00)", max_length=7, min_width=140)
            place = gr.Number(label="Place", minimum=1, precision=0, min_width=90)
            retired = gr.Checkbox(label="Retired", min_width=110)
            save = gr.Button("Save", size="sm", min_width=90)
    gr.Markdown("## Add a class", container=False)
    with gr.Row(elem_classes="line"):
        added_name = gr.Textbox(label="Name", max_length=60, scale=3)
        added_color = gr.Textbox(label="Colour (empty: the palette’s)", max_length=7, min_width=130)
        add = gr.Button("Add", variant="primary", size="sm", min_width=90)
    fields = [table, editor, seen, title, name, color, place, retired]

    @checked(ADMINS, "seeing label classes")
    def load(request: gr.Request) -> list[Any]:
        return shown(workspace, None)

    @checked(ADMINS, "seeing label classes")
    def pick(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return shown(workspace, int(event.row_value[4]))

    @checked(ADMINS, "adding a label class")
    def add_class(name: str, color: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "adding a label class")
        added = classes.add_class(workspace, name, color.strip().lower(), actor)
        gr.Info(f"Class {plain(added.name)} added.")
        return [*shown(workspace, None), "", ""]

    @checked(ADMINS, "changing a label class")
    def save_class(
        seen: LabelClass | None, name: str, color: str, place: int, retired: bool, request: gr.Request
    ) -> list[Any]:
        if seen is None:
            raise InputRefused("no class is selected; select one from the list")
        actor, color = acting(request, ADMINS, "changing a label class"), color.strip().lower()
        own = "" if color == classes.color_of(replace(seen, color="")) else color
        changed = replace(seen, name=name.strip(), color=own, place=int(place or 1), retired=retired)
        classes.change_class(workspace, seen, changed, actor)
        gr.Info("Saved. Open pages follow when they are reloaded.")
        return shown(workspace, seen.value)

    tab.select(load, None, fields, api_name="classes", **READING)
    table.select(pick, None, fields, api_name=False, **READING)
    add.click(
        add_class,
        [added_name, added_color],
        [*fields, added_name, added_color],
        api_name="add_class",
        **QUIET,
    )
    save.click(save_class, [seen, name, color, place, retired], fields, api_name=False, **QUIET)


def shown(workspace: Workspace, value: int | None) -> list[Any]:
    """The table, and the editor of one class, hidden without one."""
    found = classes.list_classes(workspace)
    rows = [
        [one.place, one.name, classes.color_of(one), "retired" if one.retired else "offered", one.value]
        for one in found
    ]
    table = pd.DataFrame(rows, columns=list(CLASSES))
    one = next((each for each in found if each.value == value), None)
    if one is None:
        return [table, gr.update(visible=False), None, "", "", "", 1, False]
    return [
        table,
        gr.update(visible=True),
        one,
        f"## {plain(one.name)}",
        one.name,
        classes.color_of(one),
        one.place,
        one.retired,
    ]
