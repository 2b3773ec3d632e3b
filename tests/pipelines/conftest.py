"""A whole round of fakes, played once, that the tests of the stages look at."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.images import encode_png
from dataengine.masks import pack_label_map
from dataengine.records import Image, Label, image_id
from pipelines import recipes
from pipelines.round import ROUND, advance
from pipelines.runtime.context import Context, Waiting
from pipelines.services.benchmarks import freeze_known
from pipelines.services.rounds import start_round
from pipelines.stages.stage import Done, run_work, stage_named
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.fake_workspace import answer_queue, prepare, real_picture
from tests.fakes import fake_models, paint
from tests.local_hub import Hub


@dataclass(frozen=True)
class Played:
    """A round and what its stages answered."""

    context: Context
    round_id: str
    waited: tuple[Waiting, ...]

    @property
    def results(self) -> dict[str, Any]:
        with self.context.workspace.catalog(read_only=True) as catalog:
            return catalog.rounds.get(self.round_id).results


def play(context: Context, round_id: str, until: str = "") -> tuple[Waiting, ...]:
    """Advance until a stage (or to the end), answering what waits for people."""
    waited = []
    while True:
        with context.workspace.catalog(read_only=True) as catalog:
            if catalog.rounds.get(round_id).stage == until:
                return tuple(waited)
        step = advance(context, round_id)
        if isinstance(step, Done):
            return tuple(waited)
        if isinstance(step, Waiting):
            waited.append(step)
            answer_queue(context.workspace, round_id)


def fresh_context(folder: Path) -> tuple[Context, str]:
    """A prepared workspace of fakes with a round at its beginning."""
    workspace = create_workspace(folder)
    prepare(workspace, real=24)
    add_benchmark(workspace)
    freeze_known(workspace, "test")
    row = start_round(workspace, recipes.fakes().model_dump(mode="json"), "test")
    return Context(workspace, fake_models()), row.id


def add_benchmark(workspace: Workspace, each: int = 4) -> None:
    """Pictures with known truth, and clean ones, of split "benchmark"."""
    clean = [real_picture(workspace, "a photo of a hand", 1000 + seed) for seed in range(each)]
    flawed = [broken_picture(workspace, "a photo of a hand", 2000 + seed) for seed in range(each)]
    with workspace.catalog() as catalog:
        catalog.images.add_many(replace(image, split="benchmark") for image in clean)
        catalog.images.add_many(image for image, _ in flawed)
        for _, label in flawed:
            catalog.labels.submit(label)
        catalog.commit()


def broken_picture(workspace: Workspace, prompt: str, seed: int) -> tuple[Image, Label]:
    """A picture with a red square, and the label that says where."""
    pixels = paint(prompt, seed, flawless=True)
    label_map = np.zeros(pixels.shape[:2], np.uint8)
    label_map[4:12, 4:12] = 1
    pixels[label_map > 0] = (250, 5, 5)
    sha256 = workspace.blobs.put(encode_png(pixels))
    image = Image(
        id=image_id(sha256, None, prompt, seed),
        sha256=sha256,
        height=pixels.shape[0],
        width=pixels.shape[1],
        prompt=prompt,
        category="hand",
        seed=seed,
        source="drawn",
        split="benchmark",
        group=str(seed),
    )
    blob = workspace.blobs.put(pack_label_map(label_map))
    height, width = label_map.shape
    return image, Label(
        image_id=image.id, author="clinic", height=height, width=width, label_map=blob, source="import"
    )


def run_one(context: Context, round_id: str, stage: str) -> dict[str, Any]:
    """One stage of a round in this process, recorded nowhere."""
    result: dict[str, Any] = run_work(context, round_id, stage_named(stage, ROUND).work)
    return result


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    context, round_id = fresh_context(tmp_path_factory.mktemp("played") / "workspace")
    return Played(context, round_id, play(context, round_id))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Context, str]]:
    yield fresh_context(tmp_path / "workspace")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub that this process knows, with an empty cache."""
    from huggingface_hub import constants

    server = Hub(tmp_path / "hub")
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
