"""Sheets of screenshots for the documentation: a row a view, in light, in dark and on a phone.

`python -m tests.ui.screenshots docs/images/views` draws all of them again, one sheet a desk.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from storage.opening import create_workspace
from tests.bench.web_server import server_process
from tests.services import chromium_path
from tests.ui.accessibility import walk
from tests.ui.browsing import FLAGS
from tests.ui.views import View, alive, fill, views

LOOKS = ("light", "dark", "phone")
HEIGHT, GAP, TITLE = 400, 12, 18
ROWS = 4
QUALITIES = range(60, 20, -5)
LARGEST = 150_000
"""Bytes of a sheet: the highest quality that fits is taken."""
DESKS = ("annotate", "curate", "train", "treat", "rounds", "study", "admin", "gradio")
OTHERS = "pages"
"""The sheet of the views that are part of no large desk."""


def main(target: Path) -> None:
    """Take a screenshot of every view, and write the sheets into `target`."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = create_workspace(Path(folder) / "workspace")
        wanted, shots = views(fill(workspace)), Path(folder) / "shots"
        shots.mkdir()

        def shoot(page: Page, view: View, what: str) -> None:
            page.screenshot(path=shots / f"{view.name}-{what}.png")

        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with alive(workspace), server_process(Path(__file__).parents[2], workspace.path) as (url, _):
            for seen in walk(browser, url, wanted, look=shoot):
                print(seen.view.name, *seen.errors, *seen.serious, f"overflow {seen.overflow}", flush=True)
        browser.close()
        workspace.close()
        write_sheets(shots, [view.name for view in wanted], target)


def write_sheets(shots: Path, names: list[str], target: Path) -> None:
    """One JPEG for each desk and `ROWS` of its views, and on the terminal the lines of `docs/views.md`.

    Views without all their screenshots are left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    taken = [name for name in names if all((shots / f"{name}-{look}.png").exists() for look in LOOKS)]
    for old in target.glob("*.jpg"):
        old.unlink()
    for desk in (OTHERS, *DESKS):
        rows = [name for name in taken if desk_of(name) == desk]
        for page, first in enumerate(range(0, len(rows), ROWS), 1):
            shown = rows[first : first + ROWS]
            (target / f"{desk}-{page}.jpg").write_bytes(encoded(sheet(shots, shown)))
            print(f"![{', '.join(shown)}](images/views/{desk}-{page}.jpg)\n")


def desk_of(view: str) -> str:
    """The desk whose sheets show a view."""
    first = view.split("-")[0]
    return first if first in DESKS else OTHERS


def encoded(made: Image.Image) -> bytes:
    """The sheet as a JPEG of at most `LARGEST` bytes."""
    for quality in QUALITIES:
        body = io.BytesIO()
        made.save(body, "JPEG", quality=quality, optimize=True, progressive=True)
        if body.tell() <= LARGEST:
            break
    return body.getvalue()


def sheet(shots: Path, names: list[str]) -> Image.Image:
    """The screenshots of some views, all of one height."""
    rows = [[scaled(shots / f"{name}-{look}.png") for look in LOOKS] for name in names]
    width = max(sum(one.width for one in row) + GAP * (len(row) + 1) for row in rows)
    made = Image.new("RGB", (width, (HEIGHT + GAP + TITLE) * len(rows) + GAP), "#8a9694")
    draw = ImageDraw.Draw(made)
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        left, top = GAP, GAP + place * (HEIGHT + GAP + TITLE)
        draw.text((left, top), name, fill="black")
        for one in row:
            made.paste(one, (left, top + TITLE))
            left += one.width + GAP
    return made


def scaled(path: Path) -> Image.Image:
    """A screenshot at the sheet's height."""
    with Image.open(path) as shot:
        return shot.convert("RGB").resize(
            (round(shot.width * HEIGHT / shot.height), HEIGHT), Image.Resampling.LANCZOS
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
