"""A served workspace with images to annotate."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from dataengine.masks import quantise
from dataengine.records import DetectorVersion, Image, Prediction, QueueItem, image_id
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.harness import ROOT
from tests.bench.web_server import server_process

PASSWORD = "correct horse battery"

SETTINGS = ("desks=false", "login_failures=1000")
"""Of the server: the annotation page and its API alone, and as many sign-ins as there are writers."""


@contextmanager
def served(workspace: Workspace) -> Iterator[str]:
    """The URL of a server process over the workspace."""
    with server_process(ROOT, workspace.path, *SETTINGS) as server:
        yield server.url


def workspace_with_queue(
    folder: Path, images: list[np.ndarray], maps: list[np.ndarray], people: list[str]
) -> Workspace:
    """A workspace with queued images (uint8 HWC), a champion's maps (float32 HW), and annotators."""
    workspace = create_workspace(folder)
    shas = workspace.blobs.put_many([png(image) for image in images])
    refs = workspace.maps.put_many([quantise(found) for found in maps])
    rows = [
        Image(
            id=image_id(sha, "bench", str(number), number),
            sha256=sha,
            height=image.shape[0],
            width=image.shape[1],
            prompt=f"picture {number}",
            category="bench",
            generator_id="bench",
            seed=number,
        )
        for number, (sha, image) in enumerate(zip(shas, images, strict=True))
    ]
    with workspace.catalog() as catalog:
        catalog.images.add_many(rows)
        catalog.detectors.add(DetectorVersion(id="d", name="doctor", checkpoint="0" * 64))
        catalog.detectors.promote("d", "bench", "the only one")
        catalog.predictions.add_many(
            Prediction(
                image_id=row.id,
                detector_id="d",
                max=float(found.max()),
                mean=float(found.mean()),
                uncertainty=0.0,
                map_ref=ref,
            )
            for row, found, ref in zip(rows, maps, refs, strict=False)
        )
        catalog.queue.add_many(
            QueueItem(image_id=row.id, round_id="r", priority=-float(number))
            for number, row in enumerate(rows)
        )
        for name in people:
            create_user(catalog, name, PASSWORD, ["annotator"], "bench")
        catalog.commit()
    return workspace


def png(image: np.ndarray) -> bytes:
    body = io.BytesIO()
    Picture.fromarray(image).save(body, "PNG", compress_level=1)
    return body.getvalue()


def soft_image(number: int, side: int) -> np.ndarray:
    """Uint8 side×side×3: soft shapes, different for every number."""
    rng = np.random.default_rng([7, number])
    coarse = Picture.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Picture.Resampling.BICUBIC))


def artifact_map(number: int, side: int, spots: int = 6) -> np.ndarray:
    """Float32 side×side: a few soft spots, as a detector's map has them."""
    rng = np.random.default_rng([8, number])
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    found = np.zeros((side, side), np.float32)
    for y, x in rng.uniform(0.1, 0.9, (spots, 2)):
        found = np.maximum(found, np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.004))
    return found.astype(np.float32)
