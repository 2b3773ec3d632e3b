"""A workspace of coloured squares (see `tests.fakes`) that rounds can begin in, and people who label it."""

from dataclasses import replace

import numpy as np

from dataengine.images import encode_png
from dataengine.masks import pack_label_map
from dataengine.records import (
    DetectorVersion,
    GeneratorVersion,
    Image,
    Label,
    digest,
    image_id,
    now,
    split_of,
)
from pipelines.runtime.images import read_pixels
from pipelines.services.benchmarks import freeze_known
from storage.workspace import Workspace
from tests.fakes import COLOURS, FIRST, SIDE, TinyDetector, category_of, paint


def prepare(workspace: Workspace, real: int = 12) -> None:
    """A workspace that a round of fakes can begin in."""
    checkpoint = workspace.checkpoints.publish(
        TinyDetector(FIRST, "first").save(workspace.path / "models" / "first")
    )
    pictures = [(f"a photo of a {list(COLOURS)[number % 4]}", number) for number in range(real)]
    images = [real_picture(workspace, prompt, seed) for prompt, seed in pictures]
    kept_apart = [
        replace(real_picture(workspace, "a photo of a hand", 900 + seed), split="benchmark")
        for seed in range(2)
    ]
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="squares", name="squares", location="squares"))
        catalog.detectors.add(DetectorVersion(id="first", name="first", checkpoint=checkpoint))
        catalog.detectors.promote("first", "test", "it is the first")
        catalog.images.add_many([*images, *kept_apart])
        catalog.commit()
    freeze_known(workspace, "test")


def real_picture(workspace: Workspace, prompt: str, seed: int) -> Image:
    """A flawless picture, kept in the blobs."""
    pixels = paint(prompt, seed, flawless=True)
    sha256 = workspace.blobs.put(encode_png(pixels))
    group = digest("real", prompt, seed)
    return Image(
        id=image_id(sha256, None, prompt, seed),
        sha256=sha256,
        height=SIDE,
        width=SIDE,
        prompt=prompt,
        category=category_of(prompt),
        seed=seed,
        source="real",
        split=split_of(group, 0.3),
        group=group,
    )


def answer_queue(workspace: Workspace, round_id: str, name: str = "ada", most: int | None = None) -> int:
    """Label every image that waits, or `most` of them, as a person would through the API; how many were."""
    answered = 0
    while answered != most:
        with workspace.catalog() as catalog:
            lease = catalog.queue.next(name, now(), 60.0, "draw")
            if lease is None:
                return answered
            image = catalog.images.get(lease.image_id)
            catalog.commit()
        pixels = read_pixels(workspace, image)
        label_map = (pixels[..., 0].astype(int) - pixels[..., 1] > 128).astype(np.uint8)
        blob = workspace.blobs.put(pack_label_map(label_map)) if label_map.any() else None
        label = Label(
            image_id=image.id,
            author=name,
            height=image.height,
            width=image.width,
            label_map=blob,
            clean=blob is None,
            source="simulated",
            round_id=round_id,
            lead_seconds=1.0,
        )
        with workspace.catalog() as catalog:
            catalog.labels.submit(label, lease.id, 0)
            catalog.commit()
        answered += 1
    return answered
