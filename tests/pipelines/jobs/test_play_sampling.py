"""An image is played by a job and shown by its steps; one that cannot be drawn again is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import ConfigRefused, NotFound
from dataengine.images import encode_png
from dataengine.records import GeneratorVersion, Image
from dataengine.treatment.guided_sampling.playback import PlayedStep
from pipelines.jobs import play_sampling
from pipelines.runtime.context import Context
from pipelines.services.images.playback import frame_ref, playback_of, request_playback
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.fake_workspace import prepare
from tests.fakes import fake_models


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = create_workspace(tmp_path / "workspace")
    prepare(made)
    yield made
    made.close()


def add_image(workspace: Workspace, **changed: Any) -> Image:
    with workspace.catalog() as catalog:
        generator = catalog.generators.list()[0].id
        (sha,) = workspace.blobs.put_many([encode_png(np.full((8, 8, 3), 9, np.uint8))])
        image = Image(
            id=f"i{len(changed)}",
            sha256=sha,
            height=8,
            width=8,
            prompt="a hand",
            seed=3,
            settings={"steps": 3},
        )
        image = replace(image, **{"generator_id": generator, **changed})
        catalog.images.add_many([image])
        catalog.commit()
    return image


def test_a_played_image_shows_its_steps(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    image = add_image(workspace)
    region = np.zeros((8, 8), bool)
    region[:2] = True
    plain = np.full((8, 8, 3), 10, np.uint8)
    steps = [
        PlayedStep(level=1.0, clean=plain, change=None, abnormal=None, corrected=None),
        PlayedStep(
            level=0.5,
            clean=plain,
            change=np.full((8, 8), 4.0, np.float32),
            abnormal=region,
            corrected=~region,
        ),
    ]
    monkeypatch.setattr(play_sampling, "open_generator", lambda *given: None)
    monkeypatch.setattr("dataengine.treatment.guided_sampling.playback.play", lambda *given: (steps, plain))
    assert playback_of(workspace, image.id)["state"] == ""
    job = request_playback(workspace, image.id, "eve")
    assert request_playback(workspace, image.id, "eve").id == job.id, "one job is enough"
    result = JOBS["play"](Context(workspace, fake_models()), job.args)
    with workspace.catalog() as catalog:
        assert catalog.jobs.claim(job.id, "w") and catalog.jobs.finish(job.id, "succeeded", result)
        catalog.commit()
    shown = playback_of(workspace, image.id)
    assert shown["state"] == "succeeded" and shown["prompt"] == "a hand" and shown["difference"] == 1.0
    first, second = shown["steps"]
    assert first["change"] is None and first["abnormal_share"] is None
    assert (second["abnormal_share"], second["corrected_share"]) == (0.25, 0.75)
    assert workspace.maps.get(frame_ref(workspace, image.id, second["change"])).min() == 255, "the highest"
    assert (workspace.maps.get(second["abnormal"]) == np.where(region, 255, 0)).all()
    assert request_playback(workspace, image.id, "eve").id == job.id
    with pytest.raises(NotFound, match="no such frame"):
        frame_ref(workspace, image.id, image.sha256)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"generator_id": None}, "was not made by a generator of this workspace"),
        ({"seed": None, "prompt": "x"}, "was not made by a generator of this workspace"),
        ({"settings": {}, "prompt": "x", "seed": 4}, "was not made by a generator of this workspace"),
        ({"settings": {"steps": 3, "correction": {"gamma": 1}}}, "corrected by an earlier rule"),
    ],
)
def test_an_image_that_cannot_be_drawn_again_is_refused(
    workspace: Workspace, changed: dict[str, Any], reason: str
) -> None:
    image = add_image(workspace, **changed)
    with pytest.raises(ConfigRefused, match=reason):
        request_playback(workspace, image.id, "eve")


def test_an_image_of_a_removed_generator_is_refused(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="gone", name="gone", location="x"))
        catalog.generators.remove("gone", "eve", "")
        catalog.commit()
    image = add_image(workspace, generator_id="gone")
    with pytest.raises(ConfigRefused, match="was removed"):
        request_playback(workspace, image.id, "eve")
