"""Every command in a block of the README and of docs/ is understood; with marker `docs` every one runs.

They run on the smallest recipe, in the order of their page, in a folder as its reader has it."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
from pipelines.cli.main import build_parser
from tests.docs.commands import ONLY_PARSED, SMALLER, Documented, commands_in, documented

EVERY = documented()
PARSER = build_parser(app.COMMANDS)


@pytest.mark.parametrize("command", EVERY, ids=lambda each: f"{each.page}: {each.line[:60]}")
def test_it_is_understood(command: Documented) -> None:
    PARSER.parse_args(command.words)


def test_blocks_are_read_with_their_comments_and_joined_lines() -> None:
    block = "```sh\nclinic b && clinic c 'd # e'\n```\n"
    python = "```python\nclinic = 1\n```\n"
    text = f"{python}Text\n\n    clinic a --set x#1  # why\n    export Y\n\n{block}clinic z\n"
    assert [each.line for each in commands_in(text)] == [
        "clinic b",
        "clinic c 'd # e'",
        "clinic a --set x#1",
    ]
    assert commands_in(text)[1].words == ["c", "d # e"] and commands_in(text)[2].words == [
        "a",
        "--set",
        "x#1",
    ]
    assert len(EVERY) > 30


def test_the_tables_name_only_what_is_documented() -> None:
    lines = {each.line for each in EVERY}
    assert not (ONLY_PARSED.keys() | SMALLER.keys()) - lines
    for smaller in (SMALLER[each] for each in SMALLER):
        PARSER.parse_args(Documented("", smaller.replace("{images}", "i j")).words)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the readers of all pages have it: images, prompts, masks, models, and a round."""
    import torch
    from safetensors.torch import save_file

    from dataengine.clinic.parts import materialise
    from dataengine.clinic.world import stream
    from dataengine.diagnosis.architectures import architecture_of
    from dataengine.diagnosis.config import published_config
    from dataengine.diagnosis.detector import NetworkDetector

    base = tmp_path_factory.mktemp("home")
    drawings = [stream("benchmark")[index] for index in range(4)]
    for folder in ("photos", "pictures", "holiday", "masks"):
        (base / folder).mkdir()
    for number, drawing in enumerate(drawings):
        for folder in ("photos", "pictures", "holiday"):
            # Different bytes in each folder: an import knows an image by its pixels.
            pixels = np.roll(drawing.image, len(folder), axis=1)
            Image.fromarray(pixels).save(base / folder / f"{number}.png")
        mask = (drawing.label_map > 0).astype(np.uint8) * 255
        Image.fromarray(mask).save(base / "masks" / f"{number}.png")
    Image.fromarray(drawings[0].image).save(base / "cat.png")
    rows = "file_name,prompt,seed\n" + "".join(f"{n}.png,a hand number {n},{n}\n" for n in range(4))
    for table in ("prompts.csv", "photos/metadata.csv"):
        (base / table).write_text(rows)
    (base / "prompts.txt").write_text("".join(f"{drawing.caption}\n" for drawing in drawings))
    materialise("stable_diffusion", base / "models" / "sd15")
    config = published_config("b0")
    state = architecture_of(config).published(NetworkDetector.fresh(config).network)
    torch.save(state, base / "ad_pytorch_model.bin")
    save_file(state, base / "diffdoctor.safetensors")
    assert app.main(["--workspace", str(base / "workspace"), "demo", "--recipe", "cpu-smoke"]) == 0
    return base


@pytest.mark.docs
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", sorted({each.page for each in EVERY}))
def test_the_commands_of_a_page_run(
    page: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(home, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n" * 4))
    if page == "admins.md":
        assert app.main(["users", "add", "ada", "--role", "annotator"]) == 0
    images = " ".join(some_images(folder / "workspace"))
    for command in (each for each in EVERY if each.page == page and each.line not in ONLY_PARSED):
        line = command.line
        if line in SMALLER:
            line = SMALLER[line].replace("{images}", images)
        status = app.main(Documented(page, line).words)
        assert status == 0, f"{line}: {capsys.readouterr().err}"


def some_images(workspace: Path) -> list[str]:
    """Ids of two images of a round."""
    from storage.opening import open_workspace

    opened = open_workspace(workspace)
    with opened.catalog(read_only=True) as catalog:
        return [image.id for image in catalog.images.find(source="generated")[:2]]
