"""Prompts that generators write into files: AUTOMATIC1111's text and ComfyUI's graph, in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import PngImagePlugin

from pipelines.exchange.metadata import Note, read_embedded
from pipelines.exchange.prompts import parse_graph, parse_parameters
from pipelines.exchange.readers.folders import import_folder
from pipelines.services.exchange.datasets import ImportRequest, import_data
from storage.workspace import Workspace

TEXT = (
    "a castle, in a field,\nat dawn\nNegative prompt: blurry, text\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3438565066, Size: 64x64, Hashes: "a, b: c"'
)
SAID = {
    "prompt": "a castle, in a field,\nat dawn",
    "seed": "3438565066",
    "settings": {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7",
        "Size": "64x64",
        "Hashes": "a, b: c",
        "Negative prompt": "blurry, text",
    },
}
PIXELS = Picture.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
USER_COMMENT, MODEL, EXIF_IFD = 0x9286, 0x0110, 0x8769


def graph(**changes: object) -> dict[str, object]:
    sampler = {"seed": 42, "positive": ["6", 0], "negative": ["7", 0]} | changes
    return {
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a blue mug", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "ConditioningCombine", "inputs": {"conditioning": ["6", 0]}},
        "9": {"class_type": "CLIPTextEncode", "inputs": {"text": ["10", 0]}},
        "10": {"class_type": "PrimitiveString", "inputs": {"string": "a red mug"}},
        "3": {"class_type": "KSampler", "inputs": sampler},
    }


def test_the_text_of_automatic1111() -> None:
    assert parse_parameters(TEXT) == SAID
    assert parse_parameters("a hand\nSteps: 4") == {
        "prompt": "a hand", "seed": None, "settings": {"Steps": "4"}
    }  # fmt: skip
    assert parse_parameters(" a hand, steps: many\n") == {"prompt": "a hand, steps: many"}
    assert parse_parameters("") == {"prompt": ""}


@pytest.mark.parametrize(
    ("changes", "prompt", "seed"),
    [
        ({}, "a blue mug", 42),
        ({"positive": ["8", 0]}, "a blue mug", 42),
        ({"positive": ["9", 0]}, "a red mug", 42),
        ({"seed": ["11", 0]}, "a blue mug", None),
        ({"noise_seed": 5, "seed": None}, "a blue mug", 5),
    ],
)
def test_the_graph_of_comfyui(changes: dict[str, object], prompt: str, seed: int | None) -> None:
    assert parse_graph(json.dumps(graph(**changes))) == {"prompt": prompt, "seed": seed}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        json.dumps(graph(positive=["99", 0])),
        json.dumps({"1": {"inputs": {"positive": ["1", 0]}}}),
        json.dumps(graph() | {"30": {"inputs": {"positive": ["9", 0], "seed": 1}}}),
    ],
)
def test_a_graph_without_one_prompt_tells_none(text: str) -> None:
    assert parse_graph(text) == {}


def save(path: Path, parameters: str = "", comfy: str = "", order: str = "be") -> None:
    """The image with these texts, where each program puts them in this format."""
    if path.suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        if parameters:
            chunks.add_text("parameters", parameters)
        if comfy:
            chunks.add_itxt("prompt", comfy)
        PIXELS.save(path, pnginfo=chunks)
        return
    exif = Picture.Exif()
    if parameters:
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + parameters.encode(f"utf-16-{order}")
    if comfy:
        exif[MODEL] = f"prompt:{comfy}"
    PIXELS.save(path, exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("order", ["be", "le"])
def test_every_format_keeps_them_where_the_programs_put_them(tmp_path: Path, suffix: str, order: str) -> None:
    save(tmp_path / f"a{suffix}", parameters=TEXT, order=order)
    note = read_embedded((tmp_path / f"a{suffix}").read_bytes())
    assert note == Note(prompt=SAID["prompt"], seed=3438565066, settings=SAID["settings"])  # type: ignore[arg-type]
    save(tmp_path / f"b{suffix}", comfy=json.dumps(graph()))
    assert read_embedded((tmp_path / f"b{suffix}").read_bytes()) == Note(prompt="a blue mug", seed=42)
    save(tmp_path / f"c{suffix}")
    assert read_embedded((tmp_path / f"c{suffix}").read_bytes()) is None
    assert read_embedded(b"no image") is None


def test_what_people_say_beside_an_image_comes_first(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        save(folder / f"{name}.png", parameters=TEXT.replace("castle", name))
    save(folder / "z.png")
    (folder / "a.txt").write_text("what I meant")
    (folder / "b.json").write_text(json.dumps({"version": "5.0", "shapes": [], "prompt": {"3": {}}}))
    (folder / "metadata.csv").write_text("file_name,prompt\nc.png,a table's\n")
    found = import_folder(workspace, folder)
    assert [one.name for one in found.refused] == ["b.png"] and "b.json" in found.refused[0].reason
    with workspace.catalog(read_only=True) as catalog:
        said = {image.origin: (image.prompt.split(",")[0], image.seed) for image in catalog.images.find()}
    assert said == {
        "a.png": ("what I meant", None),
        "b.png": ("a b", 3438565066),
        "c.png": ("a table's", None),
        "z.png": ("", None),
    }


def test_a_corrected_table_reaches_images_that_are_known(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    save(folder / "a.png")
    assert import_folder(workspace, folder).added == 1
    (folder / "metadata.csv").write_text("file_name,prompt,seed\na.png,a hand,7\n")

    def again(update: bool, trial: bool = False) -> tuple[int, int, str, int | None]:
        found, _ = import_data(workspace, ImportRequest(path=folder, update=update), dry_run=trial)
        with workspace.catalog(read_only=True) as catalog:
            (image,) = catalog.images.find()
        return found.added, found.updated, image.prompt, image.seed

    assert again(update=False) == (0, 0, "", None)
    assert again(update=True, trial=True) == (0, 1, "", None)
    assert again(update=True) == (0, 1, "a hand", 7)
    assert again(update=True) == (0, 0, "a hand", 7)
