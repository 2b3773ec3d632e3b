"""Label: hard cases of the queue in the mask editor, under the leases and rules of /annotate."""

import base64
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr

from dataengine.errors import InputRefused
from dataengine.masks import PackedMap
from pipelines.services.annotation import Annotation, skip_image, submit_answer
from pipelines.services.images.tasks import LabellingTask, count_waiting, keep_drawing, take_task
from storage.workspace import Workspace
from ui.gradio.context import AppContext, person
from ui.gradio.mask_editor import ArtifactMaskEditor
from ui.web.access import roles
from ui.web.gradio_kit import READING, checked, plain

ANNOTATORS = roles("annotator", "curator")
LABELLING = "labelling"
LONGEST_SECONDS = 300.0
"""Time on task that counts at most: what goes beyond was idle."""
NOTHING = "Nothing waits for you. Images come from a round, or from the tab Hard cases."


def build(context: AppContext, tab: gr.Tab) -> None:
    """The tab's components and events."""
    workspace, seconds = context.workspace, context.lease_seconds
    task = gr.State(None)
    lead = gr.Markdown()
    editor = ArtifactMaskEditor(elem_id="label-editor", height=560)
    with gr.Row():
        clean = gr.Button("No artifact")
        skip = gr.Button("Skip")
        start = gr.Button("Next image")
    if context.desks:
        gr.Markdown(
            "Guideline, practice, comments and your answers are at [/annotate](../annotate); "
            "reviews are at [/curate](../curate)."
        )

    @checked(ANNOTATORS, LABELLING)
    def begin(request: gr.Request) -> tuple[Any, ...]:
        return next_task(workspace, person(request, ANNOTATORS, LABELLING), seconds)

    @checked(ANNOTATORS, LABELLING)
    def answer(
        value: Mapping[str, Any] | None, task: dict[str, Any] | None, request: gr.Request
    ) -> tuple[Any, ...]:
        name = person(request, ANNOTATORS, LABELLING)
        submit_answer(workspace, annotation_of(value, task), name)
        return next_task(workspace, name, seconds)

    @checked(ANNOTATORS, LABELLING)
    def nothing_there(task: dict[str, Any] | None, request: gr.Request) -> tuple[Any, ...]:
        name = person(request, ANNOTATORS, LABELLING)
        submit_answer(workspace, annotation_of(None, task, clean=True), name)
        return next_task(workspace, name, seconds)

    @checked(ANNOTATORS, LABELLING)
    def decline(task: dict[str, Any] | None, request: gr.Request) -> tuple[Any, ...]:
        name = person(request, ANNOTATORS, LABELLING)
        skip_image(workspace, required(task)["lease"], name, "")
        return next_task(workspace, name, seconds)

    @checked(ANNOTATORS, LABELLING)
    def keep(value: Mapping[str, Any] | None, task: dict[str, Any] | None, request: gr.Request) -> None:
        if value is None or task is None or not fits(value, task):
            return
        if task["drawn"] or value["label_map"].any():
            name = person(request, ANNOTATORS, LABELLING)
            keep_drawing(workspace, task["lease"], packed_text(value), spent(task), name)

    shown = [editor, task, lead]
    # Queued: without its queue, a mounted Gradio gives files addresses that lack the path of the mount.
    quiet = {"show_progress": "hidden"}
    start.click(begin, None, shown, api_name="next_image", **quiet)
    tab.select(begin, None, shown, api_visibility="private", **quiet)
    editor.submit(answer, [editor, task], shown, api_name="submit_label", **quiet)
    clean.click(nothing_there, [task], shown, api_name="submit_clean", **quiet)
    skip.click(decline, [task], shown, api_name="skip_image", **quiet)
    # Every stroke reaches the server, so a session that ends loses no drawing.
    editor.input(keep, [editor, task], None, api_name="save_draft", **READING)


def next_task(
    workspace: Workspace, name: str, lease_seconds: float
) -> tuple[Any, dict[str, Any] | None, str]:
    """The editor's value, what the answer needs, and a line about the image."""
    found = take_task(workspace, name, lease_seconds)
    if found is None:
        return None, None, NOTHING
    return editor_value(found), state_of(found), lead_of(found, count_waiting(workspace, name))


def editor_value(task: LabellingTask) -> dict[str, Any]:
    """The task as the editor shows it."""
    return {
        "image": task.data,
        "label_map": task.drawn,
        "classes": list(task.classes),
        "confidence": task.confidence,
        "threshold": task.threshold,
    }


def state_of(task: LabellingTask) -> dict[str, Any]:
    """What the answer to a task refers to."""
    return {
        "lease": task.lease,
        "image": task.image.id,
        "size": [task.image.height, task.image.width],
        "revision": task.revision,
        "drawn": bool(task.drawn.any()),
        "shown": time.time(),
    }


def lead_of(task: LabellingTask, waiting: int) -> str:
    """What the person should know of the image."""
    words = [plain(task.image.prompt or "no prompt"), plain(task.image.category or ""), f"{waiting} waiting"]
    return " · ".join(filter(None, words))


def annotation_of(
    value: Mapping[str, Any] | None, task: dict[str, Any] | None, clean: bool = False
) -> Annotation:
    """The answer. Raises `InputRefused` without a task, for another image, and for an empty drawing."""
    task = required(task)
    if not clean:
        if value is None or not fits(value, task):
            raise InputRefused("the editor shows another image than this task; press Next image")
        if not value["label_map"].any():
            raise InputRefused("nothing is drawn; press “No artifact” if the image has none")
    return Annotation(
        lease=task["lease"],
        image=task["image"],
        revision=task["revision"],
        clean=clean,
        label_map=None if clean or value is None else packed_text(value),
        seconds=spent(task),
        key=f"gradio {task['lease']}",
    )


def required(task: dict[str, Any] | None) -> dict[str, Any]:
    """The task. Raises `InputRefused` without one."""
    if task is None:
        raise InputRefused("there is no image; press Next image first")
    return task


def fits(value: Mapping[str, Any], task: dict[str, Any]) -> bool:
    """Whether a drawing has the size of the task's image."""
    return list(value["label_map"].shape) == task["size"]


def packed_text(value: Mapping[str, Any]) -> str:
    """The drawing as the annotation API takes it."""
    return base64.b64encode(PackedMap.of(value["label_map"]).data).decode()


def spent(task: dict[str, Any]) -> float:
    """Seconds since the image was shown, at most `LONGEST_SECONDS`."""
    return min(time.time() - task["shown"], LONGEST_SECONDS)
