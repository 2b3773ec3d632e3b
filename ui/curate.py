"""The curating desk: images with their artifact maps and labels, filtered and paged by key."""

from typing import Any

import gradio as gr

from dataengine.records import Image, Label, Prediction
from storage.queries.curation import categories
from storage.queries.images import (
    COUNT_LIMIT,
    Cursor,
    ImageCard,
    ImageFilter,
    count_of_images,
    page_of_images,
)
from storage.workspace import Workspace
from ui.desk import checked, desk, facts, heading, panel, when
from ui.pictures import at_height, decode, heat, strip, tile_or_blank, with_labels

PATH = "/curate"
PAGE = 24
DETAIL = 420
ANY = "any"
LABELLED: dict[str, bool | None] = {"any": None, "labelled": True, "not yet": False}


def build_curate_desk(workspace: Workspace) -> gr.Blocks:
    """The desk at /curate."""
    with desk("Curate") as blocks:
        heading("Curate", "Every image beside what the champion suspects in it, most uncertain first.")
        ids, trail, after = gr.State([]), gr.State([]), gr.State(None)
        with gr.Row():
            category = gr.Dropdown([ANY], value=ANY, label="Category", allow_custom_value=True)
            source = gr.Dropdown([ANY, "generated", "real", "imported", "drawn"], value=ANY, label="Source")
            split = gr.Dropdown([ANY, "train", "validation", "benchmark"], value=ANY, label="Split")
            labelled = gr.Dropdown(list(LABELLED), value=ANY, label="Labels")
            lowest = gr.Slider(0, 1, 0, step=0.05, label="Max from", buttons=[])
            highest = gr.Slider(0, 1, 1, step=0.05, label="Max to", buttons=[])
        gallery = gr.Gallery(
            show_label=False,
            columns=4,
            object_fit="contain",
            height="auto",
            allow_preview=False,
            buttons=[],
            elem_classes="crisp tiles",
        )
        with gr.Row(elem_classes="line"):
            back = gr.Button("← Back", size="sm", scale=1, interactive=False)
            count = gr.Markdown("", elem_classes="page-count")
            forward = gr.Button("Next →", size="sm", scale=1, interactive=False)
        with gr.Row():
            picture = gr.Image(
                label="Image, map, label",
                interactive=False,
                buttons=["fullscreen"],
                elem_classes="crisp",
                scale=3,
            )
            with gr.Column(scale=2):
                about = panel("facts", label="Image")
                labels = panel("rows", label="Labels")

    @checked(PATH, "seeing images")
    def choices(request: gr.Request) -> Any:
        return category_choices(workspace)

    @checked(PATH, "seeing images")
    def first(
        category: str,
        source: str,
        split: str,
        labelled: str,
        lowest: float,
        highest: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        return page(workspace, wanted(category, source, split, labelled, lowest, highest), [])

    @checked(PATH, "seeing images")
    def turn(
        category: str, source: str, split: str, labelled: str, lowest: float, highest: float,
        trail: list[Cursor], request: gr.Request,
    ) -> tuple[Any, ...]:  # fmt: skip
        return page(workspace, wanted(category, source, split, labelled, lowest, highest), trail)

    @checked(PATH, "seeing images")
    def detail(shown: list[str], event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
        return image_detail(workspace, shown[event.index])

    with blocks:
        filters = [category, source, split, labelled, lowest, highest]
        screen = [gallery, ids, trail, after, back, forward, count]
        blocks.load(choices, None, [category], api_name="choices")
        blocks.load(first, filters, screen, api_name="images", show_progress="hidden")
        for widget in (category, source, split, labelled):
            widget.input(first, filters, screen, api_name=False, show_progress="hidden")
        for slider in (lowest, highest):
            slider.release(first, filters, screen, api_name=False, show_progress="hidden")
        for button, move in ((forward, further), (back, nearer)):
            button.click(move, [trail, after], [trail], api_name=False, show_progress="hidden").then(
                turn, [*filters, trail], screen, api_name=False, show_progress="hidden"
            )
        gallery.select(detail, [ids], [picture, about, labels], api_name=False, show_progress="hidden")
    return blocks


def category_choices(workspace: Workspace) -> Any:
    """Categories, those with the highest mean confidence first."""
    with workspace.catalog(read_only=True) as catalog:
        found = categories(catalog)
    return gr.update(
        choices=[(ANY, ANY)] + [(f"{one.category} ({one.images:,})", one.category) for one in found]
    )


def wanted(
    category: str, source: str, split: str, labelled: str, lowest: float, highest: float
) -> ImageFilter:
    """The filter that the widgets ask for."""
    return ImageFilter(
        category=None if category == ANY else category,
        source=None if source == ANY else source,
        split=None if split == ANY else split,
        labelled=LABELLED.get(labelled),
        lowest=lowest,
        highest=highest,
    )


def further(trail: list[Cursor], after: Cursor | None) -> list[Cursor]:
    """The trail of page starts, one page on."""
    return trail if after is None else [*trail, after]


def nearer(trail: list[Cursor], after: Cursor | None) -> list[Cursor]:
    """The trail of page starts, one page back."""
    return trail[:-1]


def page(workspace: Workspace, filter: ImageFilter, trail: list[Cursor]) -> tuple[Any, ...]:
    """Gallery, ids, trail, where the next page starts, both buttons, and the words between them."""
    start = (float(trail[-1][0]), str(trail[-1][1])) if trail else None
    with workspace.catalog(read_only=True) as catalog:
        found = page_of_images(catalog, filter, start, PAGE)
        total = count_of_images(catalog, filter)
    pictures = [(tile_or_blank(workspace, card.sha256, card.map_ref), caption(card)) for card in found.cards]
    many = f"{total:,} or more" if total >= COUNT_LIMIT else f"{total:,}"
    first = len(trail) * PAGE + 1
    words = (
        f"{first:,}–{first + len(pictures) - 1:,} of {many}" if pictures else "No image fits these filters."
    )
    ids = [card.id for card in found.cards]
    back, forward = gr.update(interactive=bool(trail)), gr.update(interactive=found.after is not None)
    return gr.update(value=pictures, selected_index=None), ids, trail, found.after, back, forward, words


def caption(card: ImageCard) -> str:
    """Category, confidence and whether somebody labelled it."""
    figures = "not diagnosed" if card.max is None else f"max {card.max:.2f}"
    return " · ".join(filter(None, [card.category, figures, "labelled" if card.labelled else ""]))


def image_detail(workspace: Workspace, image_id: str) -> tuple[Any, Any, Any]:
    """One image large, with map and newest label, what is known of it, and who labelled it."""
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
        champion = catalog.detectors.champion()
        prediction = catalog.predictions.get(image_id, champion.id) if champion else None
        history = catalog.labels.history(image_id)
    pixels = at_height(decode(workspace.blobs.get(image.sha256)), DETAIL)
    shown = [pixels]
    if prediction is not None and prediction.map_ref is not None:
        shown.append(heat(pixels, workspace.maps.get(prediction.map_ref)))
    if history:
        newest = max(history, key=lambda label: label.created)
        shown.append(with_labels(workspace, pixels, newest, DETAIL))
    return strip(shown, DETAIL), {"items": image_facts(image, prediction)}, label_rows(history)


def image_facts(image: Image, prediction: Prediction | None) -> list[list[str]]:
    """What is known of an image, as pairs of words."""
    known: dict[str, Any] = {
        "prompt": image.prompt or "–",
        "category": image.category,
        "source": f"{image.source}, {image.split}",
        "generator": image.generator_id,
        "seed": None if image.seed is None else str(image.seed),
        "size": f"{image.height} × {image.width}",
        "licence": image.licence or "–",
        "round": image.round_id,
        "id": image.id,
    }
    if prediction is not None:
        known |= {
            "max confidence": prediction.max,
            "mean": prediction.mean,
            "uncertainty": prediction.uncertainty,
        }
    return facts(known)


def label_rows(history: list[Label]) -> dict[str, Any]:
    """Every revision by every author, newest first."""
    return {
        "empty": "Nobody has labelled this image.",
        "items": [
            {
                "title": f"{label.author}, revision {label.revision}",
                "sub": "clean" if label.clean else f"painted, {label.lead_seconds:.0f} s",
                "note": when(label.created),
                "state": label.source,
            }
            for label in sorted(history, key=lambda label: -label.created)
        ],
    }
