"""Similarity of pairs against its definitions, and what could not be measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import ModelRefused
from dataengine.images import encode_png
from dataengine.records import Image
from pipelines.generators.comparison import Pair
from pipelines.generators.similarity import open_lpips, pair_similarity, similarity_figures
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from tests.fakes import fake_models


def stored(context: Context, pixels: np.ndarray, name: str, prompt: str) -> Image:
    sha256 = context.workspace.blobs.put(encode_png(pixels))
    height, width = pixels.shape[:2]
    return Image(id=name, sha256=sha256, height=height, width=width, prompt=prompt, seed=7, source="drawn")


def test_similarity_of_pairs(tmp_path: Path) -> None:
    context = Context(create_workspace(tmp_path / "w"), fake_models())
    flat = np.full((16, 16, 3), 100, np.uint8)
    small = flat[:8]
    pairs = [
        Pair(before=stored(context, flat, "a", "one"), after=stored(context, flat + 51, "b", "one")),
        Pair(before=stored(context, flat, "c", "two"), after=stored(context, flat, "d", "two")),
        Pair(before=stored(context, small, "e", "two"), after=stored(context, small + 51, "f", "two")),
    ]
    rows = pair_similarity(context, pairs, None)
    # 51 of 255 is 0.2: a mean squared error of 0.04, which is 10 · log10(25) = 13.98 dB.
    assert rows[0]["psnr"] == rows[2]["psnr"] == pytest.approx(10 * np.log10(25))
    assert rows[1]["psnr"] is None and rows[1]["ssim"] == 1 and rows[2]["ssim"] is None
    assert (rows[0]["before"], rows[0]["after"], rows[0]["seed"]) == ("a", "b", 7)
    # Flat images differ in luminance alone: (2ab + c1) / (a² + b² + c1).
    a, b = 100 / 255, 151 / 255
    assert rows[0]["ssim"] == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-6)
    figures = similarity_figures(rows, None)
    assert figures["identical"] == 1 and figures["psnr"]["mean"] == pytest.approx(10 * np.log10(25))
    assert figures["lpips"] is None and figures["note"].startswith("LPIPS not measured")
    assert figures["ssim"]["mean"] == pytest.approx((rows[0]["ssim"] + 1) / 2)
    none: dict[str, Any] = similarity_figures(rows[1:2], None)
    assert none["psnr"] is None and none["identical"] == 1


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    context = Context(create_workspace(tmp_path / "w"), fake_models())
    assert open_lpips(context, "") is None
    with pytest.raises(ModelRefused, match="there is no such file"):
        open_lpips(context, str(tmp_path / "alexnet.safetensors"))
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelRefused, match="holds no alexnet"):
        open_lpips(context, str(tmp_path / "other.safetensors"))
