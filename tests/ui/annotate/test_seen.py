"""Chromium shows every picture as the detector sees it, whatever EXIF or transparency say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from dataengine.images import decode
from pipelines.exchange.readers.folders import import_folder
from tests.pipelines.exchange import pictures
from tests.ui.annotate.test_browser import Desk, Server, desk, server, shown

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser

# As the annotation page loads pictures; the ground is the page's, black.
SHOWN = """async (id) => {
  const bitmap = await createImageBitmap(await (await fetch(`/api/images/${id}/pixels`)).blob());
  const { width, height } = bitmap, context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return { width, height, rgba: [...context.getImageData(0, 0, width, height).data] };
}"""


def turned(kind: str, orientation: int) -> Callable[[int], bytes]:
    exif = Picture.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    return lambda number: pictures.encoded(pictures.scene(number, 24, 32), kind, exif=exif, **options)


def hole(kind: str) -> Callable[[int], bytes]:
    def make(number: int) -> bytes:
        layers = np.dstack([pictures.scene(number, 24, 32), np.full((24, 32), 255, np.uint8)])
        layers[8:16, 8:16, 3] = 0
        return pictures.encoded(layers, kind, **({"lossless": True} if kind == "WEBP" else {}))

    return make


MADE = {
    **{f"{orientation}.{kind.lower()}": turned(kind, orientation)
       for kind in ("WEBP", "JPEG", "PNG") for orientation in (1, 2, 3, 5, 6, 8)},
    **{f"hole.{kind.lower()}": hole(kind) for kind in ("PNG", "WEBP", "GIF")},
}  # fmt: skip


def test_what_is_shown_is_what_is_decoded(desk: Desk, server: Server, tmp_path: Path) -> None:
    for number, (name, make) in enumerate(MADE.items(), start=200):
        (tmp_path / name).write_bytes(make(number))
    assert import_folder(server.workspace, tmp_path).added == len(MADE)
    with server.workspace.catalog(read_only=True) as catalog:
        images = {image.origin: image for image in catalog.images.find() if image.origin in MADE}
    page = desk("admin")
    shown(page)
    for name, image in images.items():
        found = page.evaluate(SHOWN, image.id)
        seen = np.array(found["rgba"], np.uint8).reshape(found["height"], found["width"], 4)[..., :3]
        expected = decode((tmp_path / name).read_bytes())
        assert seen.shape == expected.shape == (image.height, image.width, 3), name
        # A JPEG that is sent as it is, is decoded by the browser's own decoder.
        largest = 4 if name == "1.jpeg" else 0
        assert np.abs(seen.astype(int) - expected).max() <= largest, name
