"""Uploading through the browser compared with `clinic import` of the same files, in turns.

Both begin with an empty workspace: the command with its process, the browser with the chosen files, until the
page shows what was added.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from storage.accounts import create_user
from storage.opening import create_workspace
from tests.bench.annotate_server import PASSWORD
from tests.bench.desks_pages import served, signed_in
from tests.bench.harness import ROOT, Figure, bootstrap, figure, quick
from tests.services import chromium_path
from tests.ui.browsing import FLAGS

SIDE = 1024
PATIENCE_MS = 600_000


def photographs(folder: Path, count: int) -> list[str]:
    """JPEG files of smooth shapes with fine noise, about as large as photographs of that size."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-12, 13, smooth.shape, dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)
    return sorted(map(str, folder.iterdir()))


def by_command(folder: Path, workspace: Path) -> float:
    """Seconds of `clinic import`."""
    command = [sys.executable, "-m", "app", "--workspace", str(workspace), "import", str(folder)]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def by_browser(browser: Browser, files: list[str], path: Path) -> float:
    """Seconds from the button to the result."""
    workspace = create_workspace(path)
    with workspace.catalog() as catalog:
        create_user(catalog, "ada", PASSWORD, ["admin"], "bench")
        catalog.commit()
    with served(workspace) as (url, _):
        context = signed_in(browser, url)
        page = context.new_page()
        page.goto(f"{url}/import")
        page.wait_for_selector("#view[data-ready]")
        page.set_input_files("input[data-part=images]", files)
        began = time.perf_counter()
        page.click("#start")
        counts = page.wait_for_selector(".outcome .counts", timeout=PATIENCE_MS)
        took = time.perf_counter() - began
        assert counts is not None and counts.inner_text().startswith(f"{len(files)} added"), counts
        context.close()
    workspace.close()
    return took


def upload_figure() -> Figure:
    """Images a second through the browser over those of the command; its seconds in the note."""
    count, times = (20, 1) if quick() else (200, 5)
    pairs = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder)
        files = photographs(root / "files", count)
        size = sum(Path(file).stat().st_size for file in files)
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        for turn in range(times):
            command = by_command(root / "files", root / f"command-{turn}")
            pairs.append((command, by_browser(browser, files, root / f"browser-{turn}")))
        browser.close()
    ratios = [command / uploaded for command, uploaded in pairs]
    interval = bootstrap(ratios, lambda drawn: float(np.median(drawn)))
    medians = np.median(np.array(pairs), axis=0)
    note = (
        f"{count} JPEG files of {SIDE}², {size / 1e6:.0f} MB; command {medians[0]:.1f} s, browser "
        f"{medians[1]:.1f} s"
    )
    return figure("upload_over_import", float(np.median(ratios)), interval, "ratio", times, note)


if __name__ == "__main__":
    print(upload_figure())
