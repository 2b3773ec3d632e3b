"""Inpainting a folder: what is marked is drawn, the rest keeps its bytes, what does not fit is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import app
from dataengine.masks import pack_label_map
from dataengine.records import Label
from dataengine.treatment.families.loading import load_family
from pipelines.exchange.writers.snapshot_folder import export_folder
from pipelines.generators.register import register_generator
from storage.opening import create_workspace, open_workspace
from tests import fake_workspace
from tests.dataengine.treatment import tiny

SIDE = 32
HOLE = np.s_[8:24, 8:24]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"ddpm": tiny.ddpm, "flux": tiny.flux}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures: three with a mark, one whose mask is black."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[HOLE] = 0 if name == "c" else 255
        save(tmp_path / "in/images" / f"{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        save(tmp_path / "in/masks" / f"{name}.png", mask)
    return tmp_path / "in"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)


def pixels(path: Path) -> np.ndarray:
    return np.array(Picture.open(path))


class Console:
    """`clinic inpaint` with a generator of few steps, and what it says."""

    def __init__(self, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.workspace, self._capsys = workspace, capsys

    def __call__(self, generator: object, folder: Path, out: Path, *words: str) -> Any:
        asked = ["inpaint", str(folder), str(out), "--generator", str(generator), "--device", "cpu"]
        status = app.main(["--workspace", str(self.workspace), *asked, "--steps", "2", "--json", *words])
        printed = self._capsys.readouterr()
        return json.loads(printed.out) if status == 0 else printed.err


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(tmp_path / "w", capsys)


def test_what_is_marked_is_drawn_and_nothing_else(
    console: Console, models: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = console(models["ddpm"], folder, out, "--batch", "2", "--repeats", "2")
    assert (done["drawn"], done["unmarked"], done["there"]) == (3, 1, 0)
    for name in ("a", "b", "c", "d"):
        before, after = (pixels(each / f"{name}.png") for each in (folder / "images", out))
        outside = np.ones((SIDE, SIDE), bool)
        outside[HOLE] = name == "c"
        assert np.array_equal(after[outside], before[outside])
        assert name == "c" or (after[HOLE] != before[HOLE]).mean() > 0.5
    alone = tmp_path / "alone"
    console(models["ddpm"], folder, alone, "--batch", "1", "--repeats", "2")
    assert np.abs(pixels(alone / "b.png").astype(int) - pixels(out / "b.png")).max() <= 1
    console(models["ddpm"], folder, alone, "--seed", "7", "--repeats", "2")
    assert not np.array_equal(pixels(alone / "b.png"), pixels(out / "b.png"))


def test_the_same_command_draws_only_what_is_not_there_as_asked(
    console: Console, models: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    console(models["ddpm"], folder, out)
    (out / "a.json").unlink()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:4] = 255
    save(folder / "masks/b.png", mask)
    done = console(models["ddpm"], folder, out)
    assert (done["drawn"], done["unmarked"], done["there"]) == (2, 0, 2)
    told = json.loads((out / "b.json").read_text())
    assert told["generator"] == models["ddpm"].name and told["settings"]["inpainted"]["steps"] == 2

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("nothing is left to draw, so nothing is opened")

    monkeypatch.setattr("dataengine.treatment.families.loading.load_family", refuse)
    assert console(models["ddpm"], folder, out)["there"] == 4


def test_masks_mean_what_is_seen(
    console: Console, models: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """White first in a palette, black ink on nothing, JPEG: the same hole is drawn, and nothing else."""
    hole = np.zeros((SIDE, SIDE), bool)
    hole[HOLE] = True
    palette = Picture.frombytes("P", (SIDE, SIDE), np.where(hole, 0, 1).astype(np.uint8).tobytes())
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.save(folder / "masks/a.png")
    ink = np.zeros((SIDE, SIDE, 4), np.uint8)
    ink[hole] = (0, 0, 0, 255)
    save(folder / "masks/b.png", ink)
    (folder / "masks/d.png").unlink()
    Picture.fromarray(np.where(hole, 255, 0).astype(np.uint8)).save(folder / "masks/d.jpg", quality=90)
    assert console(models["ddpm"], folder, tmp_path / "out")["drawn"] == 3
    for name in ("a", "b", "d"):
        before, after = (pixels(each / f"{name}.png") for each in (folder / "images", tmp_path / "out"))
        assert np.array_equal(after[~hole], before[~hole]) and (after[hole] != before[hole]).mean() > 0.5
    save(folder / "masks/a.png", np.where(hole, 85, 0).astype(np.uint8) + np.eye(SIDE, dtype=np.uint8) * 170)
    said = console(models["ddpm"], folder, tmp_path / "again")
    assert "a.png: the mask has areas of grey" in said and not (tmp_path / "again").exists()


def test_people_s_labels_mend_the_workspace_s_images(
    console: Console, models: dict[str, Path], tmp_path: Path
) -> None:
    """Export, inpaint by a registered generator that reads the images' prompts, import."""
    workspace = create_workspace(console.workspace)
    fake_workspace.prepare(workspace, real=2)
    version = register_generator(workspace, str(models["flux"]), "tiny flux")
    with workspace.catalog() as catalog:
        image = catalog.images.find(source="real")[0]
        label_map = np.zeros((image.height, image.width), np.uint8)
        label_map[HOLE] = 3
        catalog.labels.submit(
            Label(
                image_id=image.id,
                author="ada",
                height=image.height,
                width=image.width,
                label_map=workspace.blobs.put(pack_label_map(label_map)),
            )
        )
        catalog.commit()
    export_folder(workspace, tmp_path / "broken", format="masks", only_labelled=True)
    done = console(version.id, tmp_path / "broken", tmp_path / "mended")
    assert (done["drawn"], done["unmarked"]) == (1, 0)
    told = json.loads((tmp_path / "mended" / f"{image.id}.json").read_text())
    assert told["prompt"] == image.prompt and told["generator"] == "tiny flux"
    words = ["--workspace", str(console.workspace), "import", str(tmp_path / "mended")]
    assert app.main(words) == 0
    with workspace.catalog(read_only=True) as catalog:
        taken = catalog.images.find(source="generated")
    assert [(one.prompt, one.settings["inpainted"]["repeats"]) for one in taken] == [(image.prompt, 3)]
    assert (taken[0].group, taken[0].split) == (image.group, image.split), "what it comes from decides"

    both = tmp_path / "mended"
    (both / "z.png").write_bytes(workspace.blobs.get(image.sha256))
    assert app.main(["--workspace", str(tmp_path / "elsewhere"), "import", str(both)]) == 0
    with open_workspace(tmp_path / "elsewhere").catalog(read_only=True) as catalog:
        one, other = catalog.images.get_many(catalog.images.ids())
    assert (one.group, one.split) == (other.group, other.split), "also when they come together"


def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    console: Console, models: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    out, (ddpm, flux) = tmp_path / "out", models.values()
    (folder / "masks/a.png").unlink()
    save(folder / "masks/b.png", np.zeros((16, 16), np.uint8))
    save(folder / "masks/z.png", np.zeros((16, 16), np.uint8))
    said = console(ddpm, folder, out)
    assert "nothing was generated: " in said and "a.png: it has no mask" in said and said.count("\n") == 1
    assert "b.png: the mask is (16, 16) (height, width), its image is (32, 32)" in said
    assert "z.png: a label without an image" in said and not out.exists()
    for name in ("a", "b", "z"):
        (folder / "masks" / f"{name}.png").unlink(missing_ok=True)
        (folder / "images" / f"{name}.png").unlink(missing_ok=True)
    assert "d.png: it has no prompt; give --prompt" in console(flux, folder, out)
    assert console(flux, folder, out, "--prompt", "a red house")["drawn"] == 1
    assert "contains the input images" in console(ddpm, folder, folder / "images")
    assert "--repeats 0" in console(ddpm, folder, out, "--repeats", "0")
    assert "steps" in console(ddpm, folder, out, "--steps", "0")
    shutil.rmtree(folder / "masks")
    assert "no labels.csv and no folder masks" in console(ddpm, folder, out)
    assert "no folder images/" in console(ddpm, tmp_path / "absent", out)
    assert "there is no workspace" in console("nobody", folder, out)


def test_a_size_that_the_generator_does_not_draw_is_named(
    console: Console, models: dict[str, Path], tmp_path: Path
) -> None:
    step = load_family(models["ddpm"]).multiple
    assert step > 1
    side = 2 * step + 1
    save(tmp_path / "in/images/odd.png", np.zeros((side, side, 3), np.uint8))
    save(tmp_path / "in/masks/odd.png", np.full((side, side), 255, np.uint8))
    said = console(models["ddpm"], tmp_path / "in", tmp_path / "out")
    assert f"odd.png: it is {side}×{side} pixels" in said and f"crop it to {2 * step}×{2 * step}" in said
