"""The wheel `gradio-artifact-mask` where there are Gradio and NumPy only: a value makes the round through a
browser and through a client."""

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.services import chromium_path
from tests.ui.browsing import FLAGS
from ui.gradio import wheel

ROOT = Path(__file__).resolve().parents[2]
FRESH = ROOT / "build" / "gradio-venv" / "bin" / "python"
pytestmark = [pytest.mark.gradiowheel, pytest.mark.timeout(1800)]

APP = """
import gradio as gr
import numpy as np
from gradio_artifact_mask import ArtifactMaskEditor

def pixels(value):
    return "none" if value is None else str(np.bincount(value["label_map"].ravel(), minlength=3)[1:].tolist())

with gr.Blocks(analytics_enabled=False) as demo:
    editor = ArtifactMaskEditor(np.full((120, 160, 3), 90, np.uint8), classes=["hand", "text"])
    answer = gr.Textbox(label="Answer")
    gr.Button("Count").click(pixels, editor, answer, api_name="count")
_, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
print(url, flush=True)
demo.block_thread()
"""
CLIENT = """
import sys
import numpy as np
from gradio_client import Client, handle_file
from PIL import Image
labels = np.zeros((20, 30), np.uint8)
labels[:4], labels[10:, 7] = 1, 2
Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("image.png")
Image.fromarray(labels).save("labels.png")
sent = {"image": handle_file("image.png"), "label_map": handle_file("labels.png")}
print(Client(sys.argv[1], verbose=False).predict(sent, api_name="/count"))
"""


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([FRESH, *words], cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CLINIC_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed without any index: what it needs beyond Gradio and NumPy would be missing."""
    assert FRESH.exists(), "make test-gradio-wheel makes the environment"
    folder = tmp_path_factory.mktemp("wheel")
    path = wheel.build(folder)
    run("-m", "pip", "install", "--quiet", "--no-index", "--force-reinstall", "--no-deps", path, cwd=folder)
    run("-m", "pip", "check", cwd=folder)
    return path


@pytest.fixture(scope="module")
def url(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(APP)
    with subprocess.Popen(
        [FRESH, "app.py"], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def test_it_holds_one_package_and_asks_for_gradio_and_numpy(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {wheel.PACKAGE}
    needs = [line for line in text.splitlines() if line.startswith("Requires-Dist")]
    assert needs == ["Requires-Dist: gradio>=6.31", "Requires-Dist: numpy>=2.0"]
    assert "ArtifactMaskEditor" in text and any(name.endswith("licenses/LICENSE") for name in names)


def test_it_loads_nothing_of_the_clinic(built: Path, tmp_path: Path) -> None:
    code = (
        "import gradio_artifact_mask, importlib.util as u;"
        "print([m for m in ('torch', 'scipy', 'dataengine', 'ui') if u.find_spec(m)])"
    )
    assert run("-c", code, cwd=tmp_path) == "[]"


def test_a_stroke_in_the_browser_reaches_python(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("[data-id=stage][data-ready=true]")
        page.wait_for_selector("[data-id=layers]:not([hidden])")
        box = page.locator("[data-id=layers]").bounding_box()
        assert box
        page.locator("[data-value='2']").click()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        page.get_by_role("button", name="Count").click()
        page.wait_for_function("document.querySelector('textarea').value.startsWith('[')")
        first, second = map(int, page.locator("textarea").input_value().strip("[]").split(","))
        browser.close()
    assert first == 0 and second > 100


def test_a_client_sends_files(url: str, tmp_path: Path) -> None:
    assert run("-c", CLIENT, url, cwd=tmp_path) == "[120, 10]"


def test_the_example_of_its_readme_is_three_lines_that_run(built: Path, tmp_path: Path) -> None:
    text = (wheel.TEMPLATE / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert len(list(filter(None, example.splitlines()))) == 3
    make = "from PIL import Image; Image.new('RGB', (40, 30)).save('photo.png')\n"
    run("-c", make + example.replace(".launch()", ".launch(prevent_thread_lock=True)"), cwd=tmp_path)
