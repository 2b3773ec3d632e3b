"""A whole round with treatment of a generator that opens by its own call, by the product's commands."""

from pathlib import Path

import pytest

from app import main
from pipelines import recipes
from pipelines.demo.data import SIZES, prepare
from pipelines.demo.run import demo
from storage.opening import create_workspace, open_workspace
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny

KINDS = ("StableDiffusion3Pipeline",)


@pytest.mark.generators
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_treats_any_class(kind: str, tmp_path: Path) -> None:
    from ui.config import ServerConfig
    from ui.server import background

    path = tmp_path / "workspace"
    prepare(create_workspace(path), SIZES["cpu-smoke"])
    folder = save_tiny(kind, tmp_path / kind)
    assert main(["--workspace", str(path), "generators", "--add", str(folder), "--licence", "MIT"]) == 0
    with open_workspace(path).catalog(read_only=True) as catalog:
        (added,) = (each for each in catalog.generators.list() if each.location == str(folder.resolve()))
    recipe = recipes.cpu_smoke()
    drawing = recipe.generate.model_copy(update={"generators": (added.id,)})
    result = demo(
        path,
        serve=lambda workspace: background(workspace, ServerConfig(port=0, desks=False)),
        say=print,
        recipe=recipe.model_copy(update={"generate": drawing}),
    )
    workspace = open_workspace(path)
    with workspace.catalog(read_only=True) as catalog:
        treated = [each for each in catalog.generators.list() if each.lora]
        drawn = catalog.images.find(round_id=result.round_id, generator_id=added.id)
    assert len(treated) == 1 and treated[0].location == added.location
    assert drawn and {(image.height, image.width) for image in drawn} == {(32, 32)}
