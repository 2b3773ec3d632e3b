"""Diagnose and repair: images in, artifact maps and repaired versions out. Nothing enters the catalog."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dataengine.images import decode, encode_png
from dataengine.records import count_of
from pipelines.selections.config import RepairRun
from pipelines.services.standalone.uploads import (
    Examination,
    ExaminedImage,
    diagnose_uploads,
    repair_uploads,
)
from storage.workspace import Workspace
from ui.gradio.context import ANY, AppContext, figure, percent, report_to
from ui.web.access import roles
from ui.web.gradio_kit import checked, plain

DIAGNOSING = roles("curator", "engineer")
COLUMNS = ("image", "verdict", "confidence", "after repair", "flagged area", "regions", "remark")
VERDICTS = {
    "flagged": "artifacts found",
    "clean": "nothing found",
    "repaired": "repaired",
    "refused": "not usable",
}
COUNTED = {
    "flagged": "artifacts in",
    "clean": "nothing found in",
    "repaired": "repaired",
    "refused": "not usable",
}
EXAMPLES = 4
LOOKING, REPAIRING = "finding artifacts in images", "repairing images"
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "models"}
"""Models run for one person at a time; others wait in Gradio's queue."""


def build(context: AppContext, tab: gr.Tab) -> None:
    """The tab's components and events."""
    workspace = context.workspace
    folder = gr.State(None, time_to_live=3600, delete_callback=forget)
    pairs = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            files = gr.File(label="Images", file_count="multiple", type="filepath", height=170)
            with gr.Row():
                whole = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
                examples = gr.Button("Take examples", size="sm")
            detector = gr.Dropdown([], label="Detector", **ANY)
            diagnose = gr.Button("Find artifacts", variant="primary")
            with gr.Accordion("Repair", open=True):
                generator = gr.Dropdown([], label="Generator that redraws", **ANY)
                prompt = gr.Textbox(
                    label="Prompt", info="of images that bring none", max_length=2000, lines=1
                )
                repair = gr.Button("Repair what was found")
        with gr.Column(scale=3, min_width=320):
            summary = gr.Markdown("Choose images, a folder, or the examples.")
            slider = gr.ImageSlider(
                label="Before and after", interactive=False, elem_classes="crisp", type="filepath", height=420
            )
            gallery = gr.Gallery(
                label="All images",
                columns=5,
                height=190,
                interactive=False,
                allow_preview=False,
                elem_classes="crisp",
            )
    table = gr.Dataframe(headers=list(COLUMNS), interactive=False, label="Scores", buttons=[], wrap=True)
    download = gr.DownloadButton("Download the report (CSV)", interactive=False, size="sm")
    shown = [folder, pairs, summary, slider, gallery, table, download]

    @checked(DIAGNOSING, "seeing the models")
    def models(detector: str | None, generator: str | None, request: gr.Request) -> tuple[Any, Any]:
        return detector_choices(workspace, detector), generator_choices(workspace, generator)

    @checked(DIAGNOSING, LOOKING)
    def find(
        files: list[str] | None,
        detector: str | None,
        old: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[Any, ...]:
        new = fresh_folder(old)
        found = diagnose_uploads(workspace, paths(files), new, detector or "", report=report_to(progress))
        return results(new, found)

    @checked(DIAGNOSING, REPAIRING)
    def mend(
        files: list[str] | None,
        detector: str | None,
        generator: str | None,
        prompt: str,
        old: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[Any, ...]:
        new = fresh_folder(old)
        run = RepairRun(detector=detector or None, generator=generator or None, prompt=prompt)
        found = repair_uploads(workspace, paths(files), new, run, report=report_to(progress))
        return results(new, found)

    @checked(DIAGNOSING, "seeing images")
    def take(old: str | None, request: gr.Request) -> tuple[str, list[str]]:
        new = fresh_folder(old)
        return str(new), example_files(workspace, new)

    @checked(DIAGNOSING, LOOKING)
    def pass_on(chosen: list[str] | None, request: gr.Request) -> list[str] | None:
        return chosen

    @checked(DIAGNOSING, "seeing images")
    def choose(pairs: list[list[str]], request: gr.Request, event: gr.SelectData) -> Any:
        return tuple(pairs[event.index])

    both = {"show_progress": "full", "show_progress_on": [summary], **ONE_AT_A_TIME}
    diagnose.click(find, [files, detector, folder], shown, api_name="diagnose", **both)
    repair.click(mend, [files, detector, generator, prompt, folder], shown, api_name="repair", **both)
    examples.click(take, [folder], [folder, files], api_name="examples")
    whole.upload(pass_on, [whole], [files], api_visibility="private", show_progress="hidden")
    gallery.select(choose, [pairs], [slider], api_visibility="private", show_progress="hidden")
    tab.select(
        models, [detector, generator], [detector, generator], api_name="models", show_progress="hidden"
    )


def paths(files: Sequence[str] | None) -> list[Path]:
    """The uploaded files."""
    return [Path(file) for file in files or ()]


def fresh_folder(old: str | None) -> Path:
    """A new folder for this session's files; the one before goes."""
    forget(old)
    return Path(tempfile.mkdtemp(prefix="clinic-examined-"))


def forget(folder: str | None) -> None:
    """Delete what a session's last call wrote."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def results(folder: Path, found: Examination) -> tuple[Any, ...]:
    """What the tab shows of an examination."""
    usable = [one for one in found.images if one.original]
    pairs = [[str(one.original), str(one.repaired or one.overlay)] for one in usable]
    return (
        str(folder),
        pairs,
        in_words(found),
        gr.update(value=tuple(pairs[0]) if pairs else None, label=slider_label(usable)),
        [(one[1], f"{figure(each.confidence)} {each.name}") for one, each in zip(pairs, usable, strict=True)],
        [row_of(one) for one in found.images],
        gr.update(value=str(found.report), interactive=True),
    )


def slider_label(images: Sequence[ExaminedImage]) -> str:
    """What the two sides of the slider show."""
    repaired = any(one.repaired for one in images)
    return "Left the original, right the repaired image" if repaired else "Left the image, right its map"


def in_words(found: Examination) -> str:
    """Counts, and what to know of the models."""
    states = [one.state for one in found.images]
    counts = [f"{words} **{states.count(state)}**" for state, words in COUNTED.items() if state in states]
    words = " · ".join(counts)
    lead = f"{words[0].upper()}{words[1:]} of {count_of(len(states), 'file')}"
    return "\n\n".join([lead, *(f"⚠ {plain(note)}" for note in found.notes)])


def row_of(one: ExaminedImage) -> list[Any]:
    """An image's line of the table."""
    return [
        one.name,
        VERDICTS[one.state],
        figure(one.confidence),
        figure(one.after),
        percent(one.area),
        one.regions,
        one.reason,
    ]


def detector_choices(workspace: Workspace, chosen: str | None = None) -> Any:
    """The champion first, then other trained detectors; the chosen one stays."""
    with workspace.catalog(read_only=True) as catalog:
        versions = [one for one in reversed(catalog.detectors.offered()) if "kind" not in one.config]
        champion = catalog.detectors.champion()
    others = [(f"{one.name} · {one.role}", one.id) for one in versions if one.role != "champion"]
    first = [(f"{champion.name} · champion", champion.id)] if champion else []
    choices = first + others
    return gr.update(choices=choices, value=chosen or (choices[0][1] if choices else None))


def generator_choices(workspace: Workspace, chosen: str | None = None) -> Any:
    """Registered generators, the newest first; the chosen one stays."""
    with workspace.catalog(read_only=True) as catalog:
        versions = list(reversed(catalog.generators.offered()))
    first = versions[0].id if versions else None
    return gr.update(choices=[(one.name, one.id) for one in versions], value=chosen or first)


def example_files(workspace: Workspace, folder: Path) -> list[str]:
    """Some images of the workspace that its champion suspects most, as files."""
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(limit=200)
        seen = catalog.predictions.of(catalog.detectors.champion_id() or "", [one.id for one in images])
    peaks = {one.image_id: one.max for one in seen}
    images.sort(key=lambda one: -peaks.get(one.id, 0.0))
    written = []
    for number, image in enumerate(images[:EXAMPLES], 1):
        target = folder / f"example-{number}.png"
        target.write_bytes(encode_png(decode(workspace.blobs.get(image.sha256))))
        written.append(str(target))
    return written
