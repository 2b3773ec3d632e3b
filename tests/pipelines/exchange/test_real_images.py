"""Pictures that we did not draw: photographs as negatives, other makers' images, other pipelines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataengine.diagnosis.config import DetectorConfig
from dataengine.images import encode_png
from dataengine.records import DetectorVersion, GeneratorVersion, Image, image_id
from dataengine.records.images import SURVEY
from pipelines import recipes
from pipelines.config import PublishConfig
from pipelines.detectors.predict import predict
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import real_items
from pipelines.exchange.readers.folders import import_folder
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from tests.pipelines.conftest import run_one

TINY = DetectorConfig(
    name="tiny",
    segformer={
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    size=256,
    fit="tiles",
)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A workspace with a real, untrained SegFormer as champion."""
    from dataengine.diagnosis.detector import NetworkDetector, save_detector

    workspace = create_workspace(tmp_path / "workspace")
    save_detector(NetworkDetector.fresh(TINY), tmp_path / "detector")
    checkpoint = workspace.checkpoints.publish(tmp_path / "detector")
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="tiny", name="tiny", checkpoint=checkpoint))
        catalog.detectors.promote("tiny", "test", "the only one")
        catalog.commit()
    return Context(workspace, real_models())


def begin(context: Context, **generate_settings: object) -> str:
    recipe = recipes.fakes().model_dump(mode="json")
    recipe["generate"].update(generate_settings)
    return start_round(context.workspace, recipe, "test").id


def test_photographs_become_negatives(context: Context, shared_data: Path, tmp_path: Path) -> None:
    few = tmp_path / "photos"
    few.mkdir()
    for path in sorted((shared_data / "real_photos").glob("*.jpg"))[:6]:
        (few / path.name).write_bytes(path.read_bytes())
    import_folder(context.workspace, few, source="real", validation=0.0)
    items = real_items(read_training_data(context.workspace), "train", PublishConfig())
    assert len(items) == 6 and {(item.kind, item.target) for item in items} == {("real", None)}


def test_other_makers_images_join_the_survey_at_native_size(
    context: Context, shared_data: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "generated"
    mixed.mkdir()
    for name in ("diffdoctor_test1.png", "imagereward_1.webp", "sd1_birdhouse_1.png"):
        (mixed / name).write_bytes((shared_data / "generated" / name).read_bytes())
    import_folder(context.workspace, mixed, source="imported")
    round_id = begin(context)
    images = images_of(context, round_id, SURVEY)
    assert sorted((image.height, image.width) for image in images) == [(256, 256), (512, 512), (1024, 1024)]
    assert run_one(context, round_id, "diagnose")["images"] == 3
    for prediction, image in zip(predict(context, "tiny", images, 4), images, strict=True):
        assert context.workspace.maps.get(prediction.map_ref or "").shape == (image.height, image.width)


@pytest.mark.slow
def test_four_megapixels_are_diagnosed_in_bounded_memory(context: Context) -> None:
    import resource

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    sha256 = context.workspace.blobs.put(encode_png(pixels))
    image = Image(
        id=image_id(sha256, None, "", None), sha256=sha256, height=2048, width=2048, source="imported"
    )
    others = [replace(image, id=f"{image.id}{n}", created=image.created - 1) for n in range(1)]
    with context.workspace.catalog() as catalog:
        catalog.images.add_many([image, *others])
        catalog.commit()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = predict(context, "tiny", [image, *others], 32)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert [context.workspace.maps.get(each.map_ref or "").shape for each in found] == [(2048, 2048)] * 2
    assert grown < 1_000_000, f"two images of 2048² took {grown / 1000:.0f} MB more"


def test_another_pipeline_draws_from_its_folder(context: Context, tmp_path: Path) -> None:
    from tests.dataengine.treatment.tiny import stable_diffusion

    folder = stable_diffusion(tmp_path / "pipeline")
    with context.workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="theirs", name="their SD", location=str(folder)))
        catalog.commit()
    round_id = begin(
        context, generators=["theirs"], categories=[], prompts=["a cat", "a dog"], seeds_per_prompt=2
    )
    assert run_one(context, round_id, "generate")["by_generator"] == {"theirs": 4}
    drawn = images_of(context, round_id, SURVEY)
    assert len({image.sha256 for image in drawn}) == 4
