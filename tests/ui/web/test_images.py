"""Pixels over HTTP: what the desk shows and what is drawn on is what the detector sees."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from dataengine.images import decode
from dataengine.records import Image
from pipelines.exchange.readers.folders import import_folder
from pipelines.services.exchange.label_studio import signed_pixels
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures


def turned_webp() -> bytes:
    exif = Picture.Exif()
    exif[0x0112] = 6
    return pictures.encoded(pictures.scene(31), "WEBP", lossless=True, exif=exif)


def hole() -> bytes:
    layers = np.dstack([pictures.scene(32), np.full((96, 128), 255, np.uint8)])
    layers[30:50, 30:50, 3] = 0
    return pictures.encoded(layers)


@pytest.mark.parametrize(("name", "data"), [("a.webp", turned_webp()), ("b.png", hole())])
def test_the_desk_and_the_detector_see_one_picture(
    name: str, data: bytes, client_of: Callable[..., TestClient], workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    import_folder(workspace, tmp_path)
    with workspace.catalog(read_only=True) as catalog:
        image = next(one for one in catalog.images.find() if one.origin == name)
    client = client_of("annotator")
    got = client.get(f"/api/images/{image.id}/pixels")
    with Picture.open(io.BytesIO(got.content)) as shown:
        assert shown.mode == "RGB" and shown.size == (image.width, image.height)
        assert np.array_equal(np.asarray(shown), decode(data))
    # A browser that kept the file as it was asks again and gets what is upright.
    asked = client.get(f"/api/images/{image.id}/pixels", headers={"If-None-Match": f'"{image.sha256}"'})
    assert asked.status_code == 200 and asked.content == got.content
    same = client.get(f"/api/images/{image.id}/pixels", headers={"If-None-Match": got.headers["etag"]})
    assert same.status_code == 304


def test_label_studio_gets_the_same_pixels(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.webp").write_bytes(turned_webp())
    import_folder(workspace, tmp_path)
    with workspace.catalog(read_only=True) as catalog:
        image = next(one for one in catalog.images.find() if one.origin == "a.webp")

    def trusted(workspace: Workspace, image_id: str, expires: int, signature: str) -> Image:
        return image

    monkeypatch.setattr("pipelines.exchange.label_studio.signing.signed_image", trusted)
    data, media_type = signed_pixels(workspace, image.id, 0, "")
    assert media_type == "image/png" and np.array_equal(decode(data), decode(turned_webp()))
    with Picture.open(io.BytesIO(data)) as shown:
        assert shown.size == (image.width, image.height)
