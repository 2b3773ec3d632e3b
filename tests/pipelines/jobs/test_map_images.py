"""The map's job: features first, every image once, drawn anew only when images are new."""

from pathlib import Path

import numpy as np
import pytest

from dataengine.curation.appearance import APPEARANCE
from dataengine.errors import ConfigRefused
from dataengine.images import encode_png, thumbnail
from dataengine.records import Image
from pipelines.jobs.map_images import map_job
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.fakes import fake_models


def add(workspace: Workspace, *seeds: int, broken: bool = False) -> None:
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        sha = workspace.blobs.put(b"no image" if broken else encode_png(pixels))
        small = None if seed % 2 or broken else workspace.blobs.put(thumbnail(pixels))
        with workspace.catalog() as catalog:
            image = Image(
                id=f"i{seed}", sha256=sha, height=20, width=30, source="imported", thumbnail=small, seed=seed
            )
            catalog.images.add_many([image])
            catalog.commit()


def test_a_map_is_drawn_anew_only_for_new_images(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    context = Context(workspace, fake_models())
    with pytest.raises(ConfigRefused, match="no images to map"):
        map_job(context, {})
    add(workspace, 0, 1, 2)
    first = map_job(context, {})
    assert first["images"] == 3 and map_job(context, {}) == {"map": first["map"], "images": 0}
    add(workspace, 3)
    add(workspace, 9, broken=True)
    second = map_job(context, {})
    assert second["images"] == 4 and second["map"] != first["map"]
    assert second["unreadable"] == 1 and second["unreadable_images"][0].startswith("i9: ")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.map_places.current() == second["map"]
        assert catalog.map_places.missing(second["map"], APPEARANCE) == 0
        assert catalog.features.missing(APPEARANCE) == []
        assert not catalog.features.get(APPEARANCE, "i9").any()
    assert map_job(context, {}) == {"map": second["map"], "images": 0}
    workspace.close()
