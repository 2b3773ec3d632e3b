"""What a model's folder may hold: no code, nothing that asks for some, no links that leave it."""

import json
from pathlib import Path
from typing import Any

import pytest

from dataengine import model_files
from dataengine.errors import InputRefused, ModelRefused
from dataengine.model_files import PICKLED, TENSORS_ONLY, check_model_folder
from pipelines.services.endpoints import checked_endpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain model's folder, as transformers saves it."""
    made = tmp_path / "model"
    (made / "text").mkdir(parents=True)
    (made / "config.json").write_text(
        json.dumps({"model_type": "llava", "text_config": {"_attn_implementation": "sdpa"}})
    )
    (made / "model.safetensors").write_bytes(b"")
    (made / "text" / "tokenizer.json").write_text('{"model": {"vocab": {"a/b": 1}}}')
    return made


def test_a_plain_folder_passes(folder: Path) -> None:
    (folder / "damaged.json").write_text("{")
    (folder / "alias.safetensors").symlink_to("model.safetensors")
    check_model_folder(folder)
    for kind in ("vqa", "llm", "generator", "detector", "scorer", "segmenter", "encoder"):
        assert checked_endpoint(kind, "x", str(folder)).location == str(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoModel": "modeling.Evil"}},
        {"auto_map": {"AutoModel": "owner/name--modeling.Evil"}},
        {"vision_config": {"auto_map": {"AutoModel": "x.Y"}}},
        {"processors": [{"auto_map": {"AutoProcessor": "x.Y"}}]},
        {"trust_remote_code": True},
        {"custom_pipelines": {"x": {"impl": "x.Y"}}},
        {"custom_pipeline": "owner/name"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "owner/kernel@main"},
        {"text_config": {"_attn_implementation": {"decoder": "owner/kernel:module"}}},
        {"use_kernels": True},
        {"kernel_config": {"RMSNorm": "owner/kernel:RMSNorm"}},
    ],
    ids=lambda settings: json.dumps(settings)[:40],
)
@pytest.mark.parametrize("name", ["config.json", "text/tokenizer_config.json"])
def test_settings_that_ask_for_code_are_refused(folder: Path, settings: dict[str, Any], name: str) -> None:
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ModelRefused, match=f"{name}.*asks for program code"):
        check_model_folder(folder)
    with pytest.raises(InputRefused, match="asks for program code"):
        checked_endpoint("vqa", "x", str(folder))


@pytest.mark.parametrize(
    "settings", [{"auto_map": {}}, {"trust_remote_code": False}, {"attn_implementation": "eager"}]
)
def test_settings_that_ask_for_none_pass(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(settings))
    check_model_folder(folder)


@pytest.mark.parametrize(
    "name", ["modeling.py", "text/deep.PY", "kernel.so", "run.sh", "weights.pkl", "model.bin", "x.ckpt"]
)
def test_code_and_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelRefused, match=name.rpartition("/")[2]):
        check_model_folder(folder)


def test_a_detector_may_hold_weights_of_torch_which_are_read_as_tensors(folder: Path) -> None:
    (folder / "model.pth").write_bytes(b"x")
    check_model_folder(folder, PICKLED - TENSORS_ONLY)
    assert checked_endpoint("detector", "x", str(folder)).kind == "detector"
    with pytest.raises(ModelRefused, match="convert it"):
        checked_endpoint("vqa", "x", str(folder))


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "parent"])
def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("s")
    target = {"file": "secret/key", "folder": "secret", "dangling": "nothing", "parent": "."}[kind]
    (folder / "text" / "link").symlink_to(tmp_path / target)
    with pytest.raises(ModelRefused, match=r"link is a link out of the model's folder"):
        check_model_folder(folder)


def test_a_snapshot_of_the_hub_links_to_its_own_blobs_alone(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "blobs" / "b1").write_text("{}")
    snapshot = tmp_path / "mine" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/b1")
    check_model_folder(snapshot)
    (snapshot / "more.json").symlink_to("../../../other/blobs/b1")
    with pytest.raises(ModelRefused, match=r"more\.json"):
        check_model_folder(snapshot)


def test_a_folder_of_countless_files_is_no_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "MOST_FILES", 2)
    with pytest.raises(ModelRefused, match="more than 2 files"):
        check_model_folder(folder)
