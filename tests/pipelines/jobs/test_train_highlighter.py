"""The flaw highlighter in the loop: trained on a round's images, registered, looking like any detector."""

import pytest

from dataengine.diagnosis.config import HighlighterConfig
from dataengine.errors import ConfigRefused
from dataengine.records.images import SURVEY
from pipelines.detectors.predict import predict
from pipelines.jobs.train_highlighter import register_highlighter
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of
from tests.fakes import with_methods
from tests.pipelines.conftest import play


def test_it_is_registered_and_looks_at_any_image(fresh: tuple[Context, str]) -> None:
    began, round_id = fresh
    play(began, round_id, until="mine")
    real = real_models()
    models = with_methods(began.models, open_detector=real.open_detector, artifact_maps=real.artifact_maps)
    context = Context(began.workspace, models)
    config = HighlighterConfig(batch=16, epochs=1, lr=1e-4)
    version = register_highlighter(context, round_id, config, 16)
    assert version.role == "candidate" and version.name == "flaw highlighter"
    assert version.metrics["training"]["generated"] >= 10
    images = images_of(context, round_id, SURVEY)[:3]
    found = predict(context, version.id, images, 8)
    maps = [context.workspace.maps.get(str(each.map_ref)) for each in found]
    assert [map_.shape for map_ in maps] == [(image.height, image.width) for image in images]
    with pytest.raises(ConfigRefused, match="ten of each"):
        register_highlighter(context, round_id, config, 4)
