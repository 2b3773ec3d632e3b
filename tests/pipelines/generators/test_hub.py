"""Generators of the hub through the HTTP calls of huggingface_hub, against a hub of this test."""

from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.errors import ConfigRefused, ModelRefused
from pipelines.generators.draw import open_generator
from pipelines.generators.files import cached_folder, download_generator
from pipelines.generators.register import register_generator
from pipelines.jobs.estimate import pipeline_folder
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services import preflight
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.dataengine.treatment import tiny
from tests.local_hub import REVISION, Hub

LARGEST = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path / "workspace")


def test_a_repository_is_fetched_once_pinned_and_used_at_its_commit(
    hub: Hub, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tiny.stable_diffusion(tmp_path / "hub" / "ada" / "tiny")
    (folder / "run.py").write_text("open('ran', 'w')")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    version = register_generator(workspace, "ada/tiny")
    assert (version.location, version.name) == ("ada/tiny", "tiny")
    assert version.settings["revision"] == REVISION
    assert version.settings["pipeline"] == "StableDiffusionPipeline"
    assert hub.downloads.count(LARGEST) == 1
    assert not {"run.py", "unet/diffusion_pytorch_model.bin"} & set(hub.downloads)
    fetched = len(hub.downloads)
    hub.revision = "6" * 40
    # What is drawn with stays at the commit that was registered, although the branch has moved.
    assert download_generator(workspace, version) == f"ada/tiny@{REVISION}"
    assert open_generator(Context(workspace, real_models("cpu")), version).name == "stable-diffusion"
    assert len(hub.downloads) == fetched
    assert preflight.weights_check(workspace, version).verdict == "good"
    assert register_generator(workspace, "ada/tiny") == version


def test_the_memory_of_a_fetched_repository_is_estimated_from_its_snapshot(
    hub: Hub, workspace: Workspace, tmp_path: Path
) -> None:
    tiny.stable_diffusion(tmp_path / "hub" / "ada" / "tiny")
    version = register_generator(workspace, "ada/tiny")
    fetched = len(hub.downloads)
    folder = pipeline_folder(workspace, version.id)
    assert folder.name == REVISION and (folder / "unet" / "config.json").is_file()
    assert preflight.generator_is_here(workspace, version.id) and len(hub.downloads) == fetched
    absent = replace(version, id="absent", location="ada/absent")
    assert cached_folder(absent) is None
    with workspace.catalog() as catalog:
        catalog.generators.add(absent)
        catalog.commit()
    with pytest.raises(ConfigRefused, match="is not on this machine yet"):
        pipeline_folder(workspace, "absent")


def test_an_interrupted_download_is_continued(hub: Hub, workspace: Workspace, tmp_path: Path) -> None:
    tiny.ddpm(tmp_path / "hub" / "ada" / "tiny")
    hub.cut[LARGEST] = 10_000
    assert register_generator(workspace, "ada/tiny@main").settings["revision"] == REVISION
    # Tried again by huggingface_hub, from the last whole chunk of 10 MB: here from the beginning.
    assert hub.downloads.count(LARGEST) == 2


def test_what_is_not_there_or_not_open_to_us_is_one_sentence(
    hub: Hub, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.ddpm(tmp_path / "hub" / "ada" / "gated")
    hub.gated["ada/gated"] = "hf_mine"
    half = tiny.ddpm(tmp_path / "hub" / "ada" / "half")
    (half / LARGEST).unlink()
    for name in ("gated", "nothing"):
        with pytest.raises(ModelRefused, match=f"ada/{name} is neither a local folder nor a repository"):
            register_generator(workspace, f"ada/{name}")
    with pytest.raises(ModelRefused, match=r"unet holds no \.safetensors file"):
        register_generator(workspace, "ada/half")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert register_generator(workspace, "ada/gated").settings["pipeline"] == "DDPMPipeline"
