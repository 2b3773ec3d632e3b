"""Building blocks of Gradio desks: theme, escaped texts, the second role check, mounting.

Nothing here needs `eval` in the browser, as `gr.HTML` does: the admin desk's content policy forbids it.
"""

import re
from collections.abc import Callable, Collection
from datetime import datetime
from functools import wraps
from html import escape
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request

from dataengine.errors import ClinicError
from dataengine.records import now
from ui.web.access import may, require

POLL_SECONDS = 3.0
LISTED = 6
MARKUP = re.compile(r"[\\`*_{}\[\]()#+\-.!|~:$]")

HEAD = """<link id="clinic-root" rel="home" href="../"><link rel="icon" href="../static/mark.svg">
<link rel="stylesheet" href="../static/style.css"><link rel="stylesheet" href="../static/gradio.css">
<script type="module" src="../static/shell.js"></script>
<script type="module" src="../static/gradio.js"></script>"""
"""Addresses from one level below the server's root, wherever that is."""

READING: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
"""How events that answer at once are bound: one request, where Gradio's queue takes two and a stream."""

SHOWN: dict[str, Any] = {"buttons": [], "wrap": True}
"""How tables are shown."""

FONT = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def theme() -> gr.themes.Base:
    """Gradio in the colours of `style.css`, light and dark alike; system fonts, so nothing is fetched."""
    plain = {
        "body_background_fill": "var(--ground)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--soft)",
        "background_fill_primary": "var(--surface)",
        "background_fill_secondary": "var(--sunken)",
        "block_background_fill": "var(--surface)",
        "block_border_color": "var(--line)",
        "block_label_background_fill": "var(--surface)",
        "block_label_text_color": "var(--soft)",
        "block_title_text_color": "var(--soft)",
        "block_info_text_color": "var(--soft)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--accent)",
        "color_accent": "var(--accent)",
        "color_accent_soft": "var(--accent-wash)",
        "checkbox_background_color_selected": "var(--accent)",
        "checkbox_border_color_selected": "var(--accent)",
        "checkbox_label_background_fill": "var(--ground)",
        "checkbox_label_background_fill_selected": "var(--accent-wash)",
        "checkbox_label_text_color": "var(--ink)",
        "panel_background_fill": "var(--surface)",
        "panel_border_color": "var(--line)",
        "input_background_fill": "var(--ground)",
        "input_border_color": "var(--line)",
        "input_border_color_focus": "var(--accent)",
        "button_primary_background_fill": "var(--accent)",
        "button_primary_background_fill_hover": "var(--accent)",
        "button_primary_border_color": "var(--accent)",
        "button_primary_text_color": "var(--accent-ink)",
        "button_secondary_background_fill": "var(--surface)",
        "button_secondary_background_fill_hover": "var(--sunken)",
        "button_secondary_border_color": "var(--line)",
        "button_secondary_text_color": "var(--ink)",
        "button_cancel_background_fill": "var(--surface)",
        "button_cancel_background_fill_hover": "var(--bad-wash)",
        "button_cancel_border_color": "var(--line)",
        "button_cancel_text_color": "var(--bad)",
        "slider_color": "var(--accent)",
        "table_even_background_fill": "var(--surface)",
        "table_odd_background_fill": "var(--surface)",
        "table_border_color": "var(--line)",
        "table_row_focus": "var(--accent-wash)",
        "table_text_color": "var(--ink)",
        "link_text_color": "var(--accent)",
        "link_text_color_hover": "var(--accent)",
    }
    base = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="gray",
        radius_size="lg",
        font=FONT,
        font_mono=MONO,
    )
    known = vars(base)
    values = plain | {f"{name}_dark": value for name, value in plain.items() if f"{name}_dark" in known}
    return base.set(
        **values,
        block_shadow="none",
        block_border_width="1px",
        button_border_width="1px",
        button_transform_hover="none",
        block_label_text_weight="500",
        block_title_text_weight="500",
        button_large_text_weight="600",
    )


def desk(title: str) -> gr.Blocks:
    """An empty desk: `with desk("Train") as blocks: …`."""
    return gr.Blocks(title=f"{title} · Artifact Clinic", analytics_enabled=False, delete_cache=(3600, 86400))


def heading(title: str, lead: str) -> gr.Markdown:
    """The desk's name and one sentence; both must be constants in our code."""
    return gr.Markdown(f"# {title}\n\n{lead}", elem_classes="desk-heading", container=False)


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is: no markup, link or image of it is acted on."""
    return MARKUP.sub(r"\\\g<0>", escape(text, quote=False).replace("\n", " "))


def figures(items: list[tuple[str, str]]) -> str:
    """Markdown for `gr.Markdown(elem_classes="figures")`: a row of values, each with what it is."""
    return "\n".join(f"- **{plain(value)}** {plain(label)}" for value, label in items)


def acting(request: gr.Request, roles: Collection[str], action: str) -> str:
    """The name of the signed-in person, after the second role check. Raises `AccessDenied`."""
    person = getattr(request.request.state, "person", None) if request.request else None
    require(person.roles if person else (), roles, action)
    assert person is not None
    return person.name


def checked(roles: Collection[str], action: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a handler that takes the `gr.Request`: role first, our errors as messages."""

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(handler)
        def run(*arguments: Any) -> Any:
            try:
                acting(next(one for one in arguments if isinstance(one, gr.Request)), roles, action)
                return handler(*arguments)
            except ClinicError as error:
                raise gr.Error(escape(str(error), quote=False), print_exception=False) from error

        return run

    return decorate


def refresh(
    blocks: gr.Blocks, handler: Callable[..., Any], inputs: list[Any], outputs: list[Any], api_name: str
) -> None:
    """Run the handler when the page loads and every few seconds, quietly."""
    timer = gr.Timer(POLL_SECONDS)
    blocks.load(handler, inputs, outputs, api_name=api_name, **READING)
    timer.tick(handler, inputs, outputs, api_name=False, concurrency_limit=None, **READING)


def mount(app: FastAPI, path: str, blocks: gr.Blocks, roles: Collection[str], max_file_size: int = 0) -> None:
    """Mount a desk under its path, for these roles only; `max_file_size` is the most bytes of one upload."""

    def dependency(request: Request) -> str | None:
        person = getattr(request.state, "person", None)
        return person.name if person is not None and may(person.roles, roles) else None

    tune_queue(blocks)
    gr.mount_gradio_app(
        app,
        blocks,
        path,
        auth_dependency=dependency,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        max_file_size=max_file_size,
        theme=theme(),
        head=HEAD,
    )


def tune_queue(blocks: gr.Blocks) -> None:
    """Let an idle queue sleep: by default Gradio polls a thousand times a second, the only load of an idle
    server. These are its own values for Windows."""
    blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = 0.05, 0.1


def when(moment: float | None) -> str:
    """A moment in the server's time zone, which it names, or a dash."""
    return (
        "–" if moment is None else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    )


def ago(moment: float | None) -> str:
    """How long ago, in one unit."""
    if moment is None:
        return "–"
    seconds = max(0.0, now() - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def short(value: Any) -> str:
    """A number with three significant digits, a short list in full; anything else as text."""
    if isinstance(value, list | tuple):
        plain = len(value) <= LISTED and not any(isinstance(one, list | tuple | dict) for one in value)
        return ", ".join(map(short, value)) or "none" if plain else f"{len(value)} values"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
