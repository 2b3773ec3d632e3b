"""What the registered segmenter offers to annotators, read from its config.json alone."""

import json
from pathlib import Path

import pytest

from dataengine.records import Endpoint
from pipelines.services.inference import segmenter_tools
from storage.opening import create_workspace


@pytest.mark.parametrize(
    ("kind", "tools"),
    [
        ("sam", ["assist"]),
        ("sam2_video", ["assist"]),
        ("sam3", ["assist", "words"]),
        ("sam3_video", ["assist", "words"]),
        ("bert", ["assist"]),
        (None, ["assist"]),
    ],
)
def test_a_word_is_offered_only_where_the_model_takes_one(
    kind: str | None, tools: list[str], tmp_path: Path
) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    with workspace.catalog() as catalog:
        assert segmenter_tools(catalog) == []
        folder = tmp_path / "model"
        folder.mkdir()
        if kind is not None:
            (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        catalog.endpoints.add(Endpoint(id="old", kind="segmenter", name="old", location="/gone", created=1.0))
        catalog.endpoints.add(Endpoint(id="new", kind="segmenter", name="new", location=str(folder)))
        assert segmenter_tools(catalog) == tools
    workspace.close()
