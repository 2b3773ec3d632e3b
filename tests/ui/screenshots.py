"""Sheets of screenshots for the documentation: a row a view, in light, in dark and on a phone.

`python -m tests.ui.screenshots docs/images/views` draws all of them again, one sheet a desk.
"""

import sys
import tempfile
from itertools import groupby
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
QUALITY = 60


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
    """One JPEG for each desk and `ROWS` of its views; views without all their screenshots are left out."""
    target.mkdir(parents=True, exist_ok=True)
    taken = [name for name in names if all((shots / f"{name}-{look}.png").exists() for look in LOOKS)]
    for desk, of_desk in groupby(taken, lambda name: name.split("-")[0]):
        rows = list(of_desk)
        for page, first in enumerate(range(0, len(rows), ROWS), 1):
            name = desk if len(rows) <= ROWS else f"{desk}-{page}"
            sheet(shots, rows[first : first + ROWS]).save(
                target / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True
            )


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
