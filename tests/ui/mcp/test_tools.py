"""What an assistant can do: the tools over a live server, by FastMCP's client in this process."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastmcp import Client
from PIL import Image as Picture

from storage.workspace import Workspace
from tests.ui.client.conftest import clinic, token_of
from tests.ui.mcp.loops import run
from ui.client import Clinic
from ui.mcp.server import build_server
from ui.mcp.tools import Tools

__all__ = ["clinic", "token_of"]

Clients = Callable[[str], Clinic]
Answer = tuple[dict[str, Any], list[Any]]


def call(over: Clinic, name: str, write: bool = True, /, **arguments: Any) -> Answer:
    """What a tool answers: its figures, and its images as uint8 arrays."""
    found = called(over, name, write, arguments)
    assert not found.is_error, found.content[0].text
    images = [one for one in found.content if one.type == "image"]
    assert all(one.mime_type == "image/png" for one in images)
    files = [io.BytesIO(base64.b64decode(one.data)) for one in images]
    return found.structured_content, [np.asarray(Picture.open(file)) for file in files]


def refusal(over: Clinic, name: str, write: bool = True, /, **arguments: Any) -> str:
    """Why a call is refused, in one line."""
    found = called(over, name, write, arguments)
    assert found.is_error and len(found.content) == 1
    text = found.content[0].text
    assert "\n" not in text and "Traceback" not in text and "pydantic" not in text
    return str(text)


def called(over: Clinic, name: str, write: bool, arguments: dict[str, Any]) -> Any:
    async def go() -> Any:
        async with Client(build_server(lambda: over, write)) as client:
            return await client.call_tool(name, arguments, raise_on_error=False)

    return run(go)


def test_what_is_offered(clinic: Clients) -> None:
    async def listed(write: bool) -> list[Any]:
        async with Client(build_server(lambda: clinic("curator"), write)) as client:
            return await client.list_tools()

    reading, everything = run(listed, False), run(listed, True)
    tools = Tools(lambda: clinic("curator"))
    assert [tool.name for tool in reading] == [function.__name__ for function in tools.reading]
    assert 12 <= len(everything) <= 15 and len(everything) == len(reading) + len(tools.changing)
    assert all(tool.annotations.read_only_hint for tool in reading)
    assert not any(tool.annotations.read_only_hint for tool in everything[len(reading) :])
    assert all(20 < len(tool.description) < 400 for tool in everything)
    search = next(tool for tool in everything if tool.name == "search_images").input_schema["properties"]
    assert (search["limit"]["minimum"], search["limit"]["maximum"]) == (1, 100)


def test_images_come_back_as_images(clinic: Clients) -> None:
    curator = clinic("curator")
    found, _ = call(curator, "search_images", words="hand", category="hands", limit=2, sort="max")
    assert found["matching"] == 4 and len(found["images"]) == 2
    image = found["images"][0]
    about, (plain, mapped) = call(curator, "show_image", image=image["id"])
    assert about["predictions"][0]["max"] == image["max"] and plain.shape == mapped.shape == (64, 64, 3)
    changed = (plain != mapped).any(axis=2)
    confidence = curator.images.map(image["id"])
    assert changed[confidence > 120].all() and not changed[confidence == 0].any()
    assert len(call(curator, "show_image", image=image["id"], with_map=False)[1]) == 1


def test_large_images_are_made_small() -> None:
    from dataengine.images import encode_png
    from ui.mcp.pictures import SIDE, map_png, plain_png

    large = np.random.default_rng(0).integers(0, 256, (900, 2000, 3), dtype=np.uint8)
    for file in (plain_png(encode_png(large)), map_png(encode_png(large), np.zeros((900, 2000), np.uint8))):
        assert max(Picture.open(io.BytesIO(file)).size) == SIDE


def test_it_curates(clinic: Clients) -> None:
    curator = clinic("curator")
    assert {one["category"] for one in call(curator, "hard_categories")[0]["categories"]} >= {"hands", "mugs"}
    ids = [image["id"] for image in call(curator, "search_images")[0]["images"]]
    sent, _ = call(curator, "queue_for_people", images=ids)
    assert sent["sent"] + sent["left_out"] == len(ids)
    assert call(curator, "queue_for_people", categories={"hands": 0.99})[0] == {"sent": 0}
    about, _ = call(curator, "report")
    assert about["roles"] == ["curator"] and about["waiting"] > 0 and "champion" not in about


def test_it_compares(clinic: Clients) -> None:
    engineer = clinic("engineer")
    assert call(engineer, "list_detectors")[0]["detectors"][0]["champion"] is True
    assert {one["id"] for one in call(engineer, "list_generators")[0]["generators"]} == {"base", "treated"}
    about, _ = call(engineer, "compare", id="d1")
    assert about["champion"]["id"] == "d1" and about["objections"]
    about, (sheet,) = call(engineer, "compare", id="t1")
    assert about["held_out"]["mean_confidence"]["ratio"] == 0.41 and len(about["pairs"]) == 4
    assert sheet.shape == (4 * 72 - 8, 136, 3)
    assert call(engineer, "report")[0]["champion"] == {"id": "d1", "name": "first doctor"}


def test_it_waits_no_longer_than_asked(clinic: Clients, live: tuple[str, Workspace]) -> None:
    curator = clinic("curator")
    job = call(curator, "find_artifacts", category="hands")[0]["job"]
    found, _ = call(curator, "wait_for", id=job, seconds=0.05)
    assert (found["state"], found["ended"]) == ("queued", False) and "no worker is running" in found["note"]
    curator.jobs.cancel(job)
    found, _ = call(curator, "wait_for", id=job, seconds=60)
    assert (found["state"], found["ended"]) == ("cancelled", True)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("search_images", {"limit": 1000}, "limit: input should be less than or equal to 100"),
        ("search_images", {"lowest_confidence": 2}, "lowest_confidence: input should be less than"),
        ("search_images", {"state": "lost"}, "state: input should be 'unlabelled'"),
        ("search_images", {"colour": "red"}, "colour: unexpected keyword"),
        ("show_image", {}, "image: missing"),
        ("show_image", {"image": "none"}, "there is no image 'none'"),
        ("show_image", {"image": "../../admin"}, "'../../admin' is no id"),
        ("wait_for", {"id": "train-x/../../overview"}, "is no id"),
        ("training_progress", {"run": "train-none"}, "there is no run 'train-none'"),
        ("wait_for", {"id": "none"}, "there is no job 'none'"),
        ("compare", {"id": "none"}, "there is no detector or treatment 'none'"),
        ("queue_for_people", {}, "name either images or categories"),
        ("queue_for_people", {"images": ["none"]}, "no image matches this selection"),
        ("start_training", {"recipe": "none"}, "there is no preset 'none'; presets are"),
        ("start_training", {"steps": 0}, "steps: input should be greater than or equal to 1"),
        ("start_treatment", {"generator": "none", "recipe": "cpu-smoke"}, "there is no generator 'none'"),
        ("promote_detector", {"detector": "none"}, "there is no detector 'none'"),
        ("drop_tables", {}, "there is no tool 'drop_tables'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    clinic: Clients, name: str, arguments: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(clinic("admin"), name, **arguments)


def test_calls_beyond_the_scope(clinic: Clients) -> None:
    for name in ("start_training", "list_detectors", "list_generators", "list_runs"):
        said = refusal(clinic("admin", "curator"), name)
        assert said == "this needs an API token with the engineer or admin role, and this one has curator"
    assert "API token with the curator" in refusal(clinic("annotator"), "search_images")
    for function in Tools(lambda: clinic("admin")).changing:
        name = function.__name__
        assert refusal(clinic("admin"), name, False) == (
            f"{name} changes the clinic, and this server only reads; start it with --write"
        )
