"""What /train?inject=1 shows and starts, without a browser."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from dataengine.images import encode_png
from dataengine.records import INJECTION_KINDS, NO_START, Image
from storage.workspace import Workspace
from tests.dataengine.injection.test_inject import textured

API = "/api/train/inject"


@pytest.fixture
def engineer(client_of: Callable[..., TestClient], workspace: Workspace) -> TestClient:
    """A workspace with one flat real photo and one that shows every kind."""
    for number, pixels in enumerate((np.full((64, 64, 3), 7, np.uint8), textured(96, 80))):
        sha256 = workspace.blobs.put(encode_png(pixels))
        height, width = pixels.shape[:2]
        one = Image(
            id=f"photo-{number}",
            sha256=sha256,
            height=height,
            width=width,
            source="real",
            category="" if number else "flat",
        )
        with workspace.catalog() as catalog:
            catalog.images.add_many([one])
            catalog.commit()
    return client_of("engineer")


def settings(client: TestClient, **values: Any) -> dict[str, Any]:
    """The form's values, as the page sends them."""
    fields = client.get(f"{API}/form").json()["fields"]
    read = {one["name"]: one.get("value") for one in fields}
    return {"settings": {**read, "images": "", **values}}


def test_the_form_names_kinds_generators_and_what_operations_are_worth(engineer: TestClient) -> None:
    found = engineer.get(f"{API}/form").json()
    assert found["kinds"] == list(INJECTION_KINDS) and found["note"] == NO_START and found["injected"] == 0
    assert found["choices"]["generator"]
    assert [one["name"] for one in found["fields"]] == [
        *("images", "source", "generator", "copies", "injection", "redraw"),
    ]


def test_a_sample_shows_each_kind_before_and_after(engineer: TestClient) -> None:
    for kind in INJECTION_KINDS:
        answer = engineer.get(f"{API}/samples/{kind}", params={"images": "source=real", "seed": 1})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        pixels = np.asarray(Picture.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
        half = (pixels.shape[1] - 4) // 2
        before, after = pixels[:, :half], pixels[:, -half:]
        assert (before != after).any(axis=-1).mean() > 0.01
        assert before.std() > 10 or kind in ("glyphs", "watermark", "seam"), "a flat photo does not show it"


def test_samples_of_what_is_not_there_are_refused(engineer: TestClient) -> None:
    for kind, params, status in (
        ("melt", {}, 422),
        ("warp", {"images": "source=generated"}, 422),
        ("warp", {"images": "categry=x"}, 422),
        ("warp", {"images": "category=zebra"}, 404),
        ("warp", {"seed": "-1"}, 422),
    ):
        assert engineer.get(f"{API}/samples/{kind}", params=params).status_code == status


def test_the_page_knows_beforehand_how_many_images_are_clean(engineer: TestClient) -> None:
    """A page that asks for samples that cannot be there fills the console with refusals."""
    for words, count in (("", 2), ("source=real", 2), ("source=generated", 0), ("category=zebra", 0)):
        assert engineer.get(f"{API}/clean", params={"images": words}).json() == {"clean": count}
    unseen = engineer.get(f"{API}/samples/warp", params={"images": "category=flat"})
    assert unseen.status_code == 204 and not unseen.content, "a flat photo shows none"
    refused = engineer.get(f"{API}/clean", params={"images": "categry=x"})
    assert refused.status_code == 422 and "categry" in refused.json()["error"]


def test_the_form_queues_the_same_job_as_the_command(engineer: TestClient, workspace: Workspace) -> None:
    asked = settings(engineer, images="source=real split=train", copies=2)
    job = engineer.post(f"{API}/start", json=asked).json()["job"]
    with workspace.catalog(read_only=True) as catalog:
        queued = catalog.jobs.get(job)
    assert queued.kind == "inject" and queued.args["settings"]["copies"] == 2
    assert queued.args["settings"]["images"]["source"] == "real"


def test_what_cannot_be_injected_is_refused_before_it_is_queued(
    engineer: TestClient, workspace: Workspace
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "known to be clean": {"images": "source=generated"},
        "no image matches": {"images": "category=zebra"},
        "is no selection of images": {"images": "nonsense"},
        "needs the id of the generator": {"source": "redraw"},
        "no generator 'absent'": {"source": "redraw", "generator": "absent"},
        "copies is 0": {"copies": 0},
        "injection.kinds": {"injection": {"kinds": []}},
        "unknown": {"unknown": 1},
    }
    for reason, change in changes.items():
        answer = engineer.post(f"{API}/start", json=settings(engineer, **change))
        assert answer.status_code in (422, 404) and reason in answer.text
    with workspace.catalog(read_only=True) as catalog:
        assert not catalog.jobs.list(kind="inject")


def test_annotators_may_not_inject(client_of: Callable[..., TestClient]) -> None:
    assert client_of("annotator").get(f"{API}/form").status_code == 403
