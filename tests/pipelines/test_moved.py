"""A workspace that was moved, its old path gone: it generates with its treated generator and promotes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dataengine.errors import NotFound
from dataengine.records import GeneratorVersion
from dataengine.treatment.config import LoraSettings, SamplingConfig
from pipelines import recipes
from pipelines.generators.draw import open_generator
from pipelines.generators.files import download_generator
from pipelines.generators.register import register_generator
from pipelines.round import ROUND
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services.rounds import start_round
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests import fake_workspace, fakes
from tests.dataengine.treatment import tiny
from tests.pipelines.conftest import play


def drawn(workspace: Workspace, generator: str) -> np.ndarray:
    """One picture by a registered generator."""
    context = Context(workspace, real_models("cpu"))
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(generator)
    return context.models.generate(open_generator(context, version), ["a dog"], [3], SamplingConfig(steps=1))


def test_a_moved_workspace_generates_and_promotes(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "old")
    fake_workspace.prepare(workspace)
    folder = tiny.flux(workspace.path)
    family = open_generator(
        Context(workspace, real_models("cpu")), register_generator(workspace, str(folder))
    )
    family.adapter.add(LoraSettings(rank=2), seed=0)
    family.adapter.save(tmp_path / "dog")
    treated = register_generator(workspace, str(folder), lora=tmp_path / "dog")
    before = drawn(workspace, treated.id)
    workspace.close()

    shutil.move(workspace.path, tmp_path / "new")
    assert not workspace.path.exists()
    again = open_workspace(tmp_path / "new")
    assert np.array_equal(drawn(again, treated.id), before)
    recipe = recipes.fakes().model_dump(mode="json")
    recipe["generate"]["generators"] = ["squares"]
    row = start_round(again, recipe, "test")
    play(Context(again, fakes.fake_models()), row.id)
    with again.catalog(read_only=True) as catalog:
        ended = catalog.rounds.get(row.id)
        assert ended.state == "done" and set(ended.results) == {stage.name for stage in ROUND}
        champion = catalog.detectors.champion()
    assert champion is not None and champion.round_id == row.id
    again.close()


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/gone/model", "does not exist on this machine"),
        ("folder:big/model", "'big', which is not registered"),
    ],
)
def test_a_generator_that_is_not_on_this_machine_is_one_sentence(
    tmp_path: Path, location: str, says: str
) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    with pytest.raises(NotFound, match=says):
        download_generator(workspace, GeneratorVersion(id="g", name="g", location=location))
