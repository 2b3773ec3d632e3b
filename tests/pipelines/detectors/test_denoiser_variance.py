"""BayesDiff in the loop: a posterior fitted once to real images, maps of one generator's images, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataengine.diagnosis.config import BayesDiffConfig
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.masks import dequantise
from dataengine.records.images import SURVEY
from pipelines import recipes
from pipelines.detectors import denoiser_variance, score_dynamics, training_free
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of
from pipelines.services.preflight import refuse_other_channels
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from tests.fake_workspace import prepare
from tests.fakes import TinyGenerator, fake_models, random, with_methods
from tests.pipelines.conftest import run_one

CONFIG = BayesDiffConfig(samples=2, images=4)


class Convolved(TinyGenerator):
    """The linear flow by a convolution, which has weights to be uncertain about."""

    def modules(self) -> dict[str, Any]:
        import torch
        from torch import nn

        if not hasattr(self, "_network"):
            layer = nn.Conv2d(6, 3, 1)
            mixture = torch.tensor(random("mixture").normal(0, 0.5, (3, 6)), dtype=torch.float32)
            layer.weight.data, layer.bias.data = mixture[:, :, None, None], torch.zeros(3)
            self._network = nn.Sequential(layer).requires_grad_(False)
        return {"unet": self._network}

    def predict(self, latents: Any, times: Any, conditioning: Any, guidance: float) -> Any:
        import torch

        colour = conditioning["colour"][:, :, None, None].expand_as(latents)
        return self.modules()["unet"](torch.cat([latents, colour], 1))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, str]:
    from dataengine.treatment.sampling.sampler import generate as really

    workspace = create_workspace(tmp_path_factory.mktemp("bayesdiff") / "workspace")
    prepare(workspace)
    recipe = recipes.fakes().model_dump(mode="json")
    recipe["generate"] |= {"prompts_per_category": 1}
    recipe["generate"]["sampling"]["steps"] = 3
    row = start_round(workspace, recipe, "test")
    models = with_methods(fake_models(), generate=really, open_generator=lambda *_: Convolved())
    context = Context(workspace, models)
    run_one(context, row.id, "generate")
    return context, row.id


def test_maps_stand_under_a_detector_of_their_own(drawn: tuple[Context, str]) -> None:
    context, round_id = drawn
    images = images_of(context, round_id, SURVEY)
    version = denoiser_variance.get_or_register_detector(context, CONFIG, str(images[0].generator_id))
    assert version.config["generator"] == images[0].generator_id and version.metrics["training"]["real"] == 4
    assert version.id == denoiser_variance.variance_id(CONFIG, str(images[0].generator_id))
    assert training_free.regenerates(version) and not score_dynamics.is_score_dynamics(version)
    found = predict(context, version.id, images, batch=4)
    assert [each.image_id for each in found] == [image.id for image in images]
    map_ = dequantise(context.workspace.maps.get(str(found[0].map_ref)))
    assert map_.shape == (images[0].height, images[0].width) and 0 < found[0].max <= 1


def test_the_posterior_is_fitted_once(drawn: tuple[Context, str], monkeypatch: pytest.MonkeyPatch) -> None:
    context, round_id = drawn
    generator = str(images_of(context, round_id, SURVEY)[0].generator_id)
    before = denoiser_variance.get_or_register_detector(context, CONFIG, generator)
    monkeypatch.setattr(denoiser_variance, "open_generator", None)
    assert denoiser_variance.get_or_register_detector(context, CONFIG, generator) == before
    settings = json.loads(
        (context.workspace.checkpoints.fetch(before.checkpoint) / "bayesdiff.json").read_text()
    )
    assert BayesDiffConfig.model_validate(settings) == CONFIG


def test_refusals_name_what_is_missing(drawn: tuple[Context, str], tmp_path: Path) -> None:
    context, round_id = drawn
    image = images_of(context, round_id, SURVEY)[0]
    version = denoiser_variance.get_or_register_detector(context, CONFIG, str(image.generator_id))
    other = replace(image, generator_id="other")
    assert score_dynamics.redrawable_images([image, other], version) == [image]
    with pytest.raises(ConfigRefused, match=r"1 of 2 images were not made by the generator"):
        next(denoiser_variance.iter_variance_maps(context, version, [image, other], 2))
    folder = context.workspace.checkpoints.fetch(version.checkpoint)
    with pytest.raises(ModelRefused, match=r"denoiser's variance"):
        real_models("cpu").open_detector(folder)
    with pytest.raises(ModelRefused, match=r"denoiser's variance, which has no gradients"):
        refuse_other_channels(folder, version.name)
    plain = Context(
        context.workspace, with_methods(context.models, open_generator=lambda *_: TinyGenerator())
    )
    seeded = CONFIG.model_copy(update={"seed": 1})
    with pytest.raises(ConfigRefused, match=r"no linear or convolutional layer"):
        denoiser_variance.get_or_register_detector(plain, seeded, str(image.generator_id))
    bare = create_workspace(tmp_path / "bare")
    prepare(bare, real=0)
    with pytest.raises(ConfigRefused, match=r"no real training images.*--source real"):
        denoiser_variance.get_or_register_detector(Context(bare, context.models), CONFIG, "squares")
