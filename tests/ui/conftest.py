"""A workspace with one person of every role, a champion and a few small images, and servers over it."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image as Picture

from dataengine.masks import quantise
from dataengine.records import (
    ROLES,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Prediction,
    QueueItem,
    Round,
    Treatment,
    image_id,
)
from storage.accounts import create_user
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.ui.browsing import PASSWORD, browser, visit, visiting
from tests.ui.world import world
from ui.config import ServerConfig
from ui.server import background, create_app

__all__ = ["PASSWORD", "browser", "visit", "visiting", "world"]

ORIGIN = "http://127.0.0.1:7860"
SIDE = 64


def png(seed: int) -> bytes:
    """A small picture: a disc on a gradient, different for every seed."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([rows * 3, columns * 3, np.full((SIDE, SIDE), (40 * seed) % 200)], axis=2).astype(
        np.uint8
    )
    pixels[(rows - 32) ** 2 + (columns - 32) ** 2 < (8 + seed % 16) ** 2] = (230, 180, 90)
    body = io.BytesIO()
    Picture.fromarray(pixels).save(body, "PNG")
    return body.getvalue()


def blob(seed: int) -> np.ndarray:
    """A confidence map with one bright spot, float32 HW in [0, 1]."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    spot = np.exp(-((rows - 10 - 4 * (seed % 12)) ** 2 + (columns - 40) ** 2) / 60.0)
    return (spot * (0.4 + 0.05 * (seed % 12))).astype(np.float32)


def furnish(workspace: Workspace, images: int = 8) -> list[str]:
    """Images by a base and a treated generator with a champion's maps; all but two wait for labels."""
    pictures = [png(seed) for seed in range(images)]
    shas = workspace.blobs.put_many(pictures)
    maps = workspace.maps.put_many([quantise(blob(seed)) for seed in range(images)])
    made = []
    for seed, sha in enumerate(shas):
        generator = "base" if seed % 2 == 0 else "treated"
        prompt = f"a drawn hand, number {seed // 2}"
        made.append(
            Image(
                id=image_id(sha, generator, prompt, seed // 2),
                sha256=sha,
                height=SIDE,
                width=SIDE,
                prompt=prompt,
                category="hands" if seed < 4 else "mugs",
                generator_id=generator,
                seed=seed // 2,
                round_id="r1",
                purpose="evaluate",
            )
        )
    with workspace.catalog() as catalog:
        catalog.images.add_many(made)
        detector = DetectorVersion(
            id="d1", name="first doctor", checkpoint="0" * 64, metrics={"mse": 0.031, "kl1m": 0.4}
        )
        catalog.detectors.add(detector)
        catalog.detectors.promote("d1", "test", "the only one")
        catalog.generators.add(GeneratorVersion(id="base", name="tiny flux", location="/models/flux"))
        catalog.generators.add(
            GeneratorVersion(id="treated", name="treated flux", location="/models/flux", parent="base")
        )
        catalog.treatments.add(
            Treatment(
                id="t1",
                generator_id="base",
                detector_id="d1",
                treated_id="treated",
                config={"steps": 40},
                result={"kept": 30, "updates": 40, "stopped": "guard", "curve": [[1, 0.5], [2, 0.3]]},
                round_id="r0",
            )
        )
        judged = {
            "mean_confidence": {"before": 0.5, "after": 0.2, "ratio": 0.41},
            "attributes": {"drop": 0.01},
        }
        catalog.rounds.add(Round(id="r0", recipe={}, stage="done", state="done", results={"judge": judged}))
        catalog.predictions.add_many(
            Prediction(
                image_id=image.id,
                detector_id="d1",
                max=float(blob(seed).max()),
                mean=float(blob(seed).mean()),
                uncertainty=0.1 * seed,
                map_ref=maps[seed],
            )
            for seed, image in enumerate(made)
        )
        catalog.queue.add_many(
            QueueItem(image_id=image.id, round_id="r1", priority=-float(seed), detector_id="d1")
            for seed, image in enumerate(made[:-2])
        )
        catalog.commit()
    return [image.id for image in made]


def add_people(workspace: Workspace) -> None:
    """One person for each role, named after it."""
    with workspace.catalog() as catalog:
        for role in ROLES:
            create_user(catalog, role, PASSWORD, [role], "test")
        catalog.commit()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workspaces made once, "bare" and "furnished", that tests copy: migrations and hashes are slow."""
    folder = tmp_path_factory.mktemp("templates")
    for name in ("bare", "furnished"):
        workspace = create_workspace(folder / name)
        if name == "furnished":
            furnish(workspace)
            add_people(workspace)
        workspace.close()
    return folder


@pytest.fixture
def bare(templates: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace without accounts."""
    yield from copied(templates / "bare", tmp_path / "bare")


@pytest.fixture
def workspace(templates: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A furnished workspace with one person of every role."""
    yield from copied(templates / "furnished", tmp_path / "furnished")


def copied(source: Path, target: Path) -> Iterator[Workspace]:
    workspace = open_workspace(shutil.copytree(source, target))
    yield workspace
    workspace.close()


@pytest.fixture
def client_of(workspace: Workspace) -> Iterator[Callable[..., TestClient]]:
    """Clients of the app without desks, signed in as somebody or as nobody."""
    app = create_app(workspace, ServerConfig(desks=False))

    def client(name: str | None = None, **options: object) -> TestClient:
        made = TestClient(app, base_url=ORIGIN, follow_redirects=False, **options)  # type: ignore[arg-type]
        if name is not None:
            sign_in(made, name)
        return made

    yield client


def sign_in(client: TestClient, name: str, password: str = PASSWORD) -> TestClient:
    """Sign in through the JSON door; the CSRF token rides along from then on."""
    answer = client.post("/api/login", json={"name": name, "password": password})
    assert answer.status_code == 200, answer.text
    client.headers["X-Clinic-CSRF"] = answer.json()["csrf"]
    return client


@pytest.fixture(scope="session")
def full(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, Workspace]]:
    """The app with all desks over a furnished workspace; its tests leave the people as they are."""
    for workspace in copied(templates / "furnished", tmp_path_factory.mktemp("full") / "furnished"):
        yield create_app(workspace), workspace


@pytest.fixture(scope="session")
def live(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Workspace]]:
    """The same, listening on a free port."""
    for workspace in copied(templates / "furnished", tmp_path_factory.mktemp("live") / "furnished"):
        with background(workspace) as where:
            yield where.url, workspace
