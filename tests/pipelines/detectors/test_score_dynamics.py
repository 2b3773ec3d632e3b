"""Score dynamics in the loop: predictions under their own name, mining, figures, plots, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.masks import dequantise
from dataengine.records.images import SURVEY
from pipelines import recipes
from pipelines.detectors import dynamics_charts, score_dynamics, training_free
from pipelines.detectors.evaluation import evaluation_sets, measure_on_sets
from pipelines.detectors.predict import predict
from pipelines.runtime import context as runtime_context
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of, recipe_of
from pipelines.selections.mine import measure_disagreement
from pipelines.services.rounds import start_round
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace
from tests.fake_workspace import prepare
from tests.fakes import fake_models, with_methods
from tests.pipelines.conftest import play, run_one
from tests.pipelines.selections import mining_of
from ui.web.images import find_map

LOOSE = DynamicsConfig(deviations=1.0, smallest=0.0, largest=1.0, erosion=0.0)


def begun(folder: Path, **generating: object) -> tuple[Context, str]:
    """A round at its beginning whose images are really sampled, with dynamics asked for."""
    from dataengine.treatment.sampling.sampler import generate as really

    workspace = create_workspace(folder)
    prepare(workspace)
    recipe = recipes.fakes().model_dump(mode="json")
    recipe["generate"] |= {"prompts_per_category": 2, **generating}
    recipe["generate"]["sampling"]["steps"] = 6
    recipe["diagnose"]["dynamics"] = LOOSE.model_dump(mode="json")
    recipe["mine"] |= {"disagreement": 1.0, "rival": score_dynamics.dynamics_id(LOOSE)}
    row = start_round(workspace, recipe, "test")
    return Context(workspace, with_methods(fake_models(), generate=really)), row.id


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, str]:
    context, round_id = begun(tmp_path_factory.mktemp("dynamics") / "workspace")
    run_one(context, round_id, "generate")
    run_one(context, round_id, "diagnose")
    return context, round_id


def test_the_stage_keeps_maps_under_a_name_of_their_own(diagnosed: tuple[Context, str]) -> None:
    context, round_id = diagnosed
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    assert version.name.startswith("score dynamics") and score_dynamics.is_score_dynamics(version)
    images = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))
    with context.workspace.catalog(read_only=True) as catalog:
        assert not catalog.predictions.missing(version.id, [image.id for image in images])
        assert catalog.detectors.champion().id == "first"
        kept = {one.image_id: one for one in catalog.predictions.of(version.id)}
    assert set(kept) == {image.id for image in images}
    map_ = dequantise(context.workspace.maps.get(kept[images[0].id].map_ref))
    assert map_.shape == (images[0].height, images[0].width)
    assert kept[images[0].id].max == pytest.approx(map_.max(), abs=1 / 255)
    assert any(one.max >= 0.5 for one in kept.values())


def test_looking_again_draws_nothing(diagnosed: tuple[Context, str], monkeypatch: pytest.MonkeyPatch) -> None:
    context, round_id = diagnosed
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    images = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))
    monkeypatch.setattr(score_dynamics, "TrajectoryReplayer", None)
    assert len(predict(context, version.id, images, 8)) == len(images)


def test_maps_do_not_depend_on_the_batch_and_the_generator_is_opened_once(
    diagnosed: tuple[Context, str],
) -> None:
    looked, round_id = diagnosed
    openings = []

    def counted(*arguments: Any) -> Any:
        openings.append(arguments)
        return looked.models.open_generator(*arguments)

    context = Context(looked.workspace, with_methods(looked.models, open_generator=counted))
    images = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    found = {
        batch: {
            image.id: map_
            for group, maps in score_dynamics.iter_dynamics_maps(context, version, images, batch)
            for image, map_ in zip(group, maps, strict=True)
        }
        for batch in (3, 100)
    }
    assert all(np.allclose(found[3][one], found[100][one], atol=1e-3) for one in found[100])
    assert len(openings) == 2, "once for each way through all images"


def test_settings_name_the_detector(diagnosed: tuple[Context, str]) -> None:
    workspace = diagnosed[0].workspace
    assert score_dynamics.get_or_register_detector(workspace, DynamicsConfig()).name == "score dynamics"
    other = score_dynamics.get_or_register_detector(workspace, DynamicsConfig(form="paper"))
    assert other.id != score_dynamics.get_or_register_detector(workspace, DynamicsConfig()).id
    assert score_dynamics.get_or_register_detector(workspace, DynamicsConfig(form="paper")) == other


def test_maps_of_the_earlier_rule_are_not_continued(diagnosed: tuple[Context, str]) -> None:
    """A version that was registered before rules were told apart names none."""
    context, round_id = diagnosed
    images = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    assert version.config["rule"] == score_dynamics.RULE
    old = replace(version, id="old", config={key: version.config[key] for key in ("kind", "dynamics")})
    with pytest.raises(ConfigRefused, match=r"by an earlier rule.*`clinic dynamics` registers today's"):
        next(score_dynamics.iter_dynamics_maps(context, old, images, 4))
    assert training_free.settings_id(score_dynamics.KIND, LOOSE) != version.id


def test_shares_of_abnormal_places_are_kept_and_drawn(diagnosed: tuple[Context, str]) -> None:
    context, _ = diagnosed
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    with context.workspace.catalog(read_only=True) as catalog:
        kept = catalog.detectors.get(version.id).metrics["abnormal"]
    (name, shares), *others = kept.items()
    assert not others and name == "squares, 6 steps"
    assert shares["levels"] == pytest.approx([4 / 6 - 1 / 6, 2 / 6], abs=1e-6)
    assert len(shares["shares"]) == 2 and 0 < max(shares["shares"]) < 1
    picture = dynamics_charts.chart_abnormal_shares(context.workspace, version.id).read_text()
    assert picture.count("<polyline") == 1 and "squares, 6 steps" in picture
    with pytest.raises(ConfigRefused, match="no image yet"):
        dynamics_charts.chart_abnormal_shares(context.workspace, "first")


def test_a_job_gives_the_dynamics_at_a_point(diagnosed: tuple[Context, str]) -> None:
    context, round_id = diagnosed
    image = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))[0]
    found = JOBS["dynamics"](context, {"image": image.id, "point": [5, 9]})
    assert len(found["here"]) == len(found["median"]) == len(found["levels"]) == 2
    assert json.loads(json.dumps(found)) == found
    assert Path(found["picture"]).read_text().count("<polyline") == 2
    with pytest.raises(ConfigRefused, match="99,9"):
        JOBS["dynamics"](context, {"image": image.id, "point": [99, 9]})


def test_it_has_a_say_in_mining_and_figures_of_its_own(tmp_path: Path) -> None:
    context, round_id = begun(tmp_path / "workspace")
    play(context, round_id, until="evaluate")
    recipe = recipe_of(context, round_id)
    images = images_of(context, round_id, SURVEY)
    assert recipe.mine.second_detector == score_dynamics.get_or_register_detector(context.workspace, LOOSE).id
    differences = measure_disagreement(context, images, mining_of(context, round_id))
    assert set(differences) == {image.id for image in score_dynamics.redrawable_images(images)}
    assert max(differences.values()) > 0
    sets = evaluation_sets(context, recipe.publish, round_id)
    figures = measure_on_sets(context, recipe.mine.second_detector, sets, 8)
    drawn = [name for name in sets if name in figures]
    assert drawn and 0 < figures[drawn[0]]["mse"] < 1
    assert figures[drawn[0]]["images"] <= len(sets[drawn[0]])
    assert not any(name.endswith("_real") for name in drawn), "photos cannot be drawn again"


def test_as_champion_it_suspects_and_prefills_before_anything_was_trained(tmp_path: Path) -> None:
    context, round_id = begun(tmp_path / "workspace")
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    with context.workspace.catalog() as catalog:
        catalog.detectors.promote(version.id, "test", "nothing is trained yet")
        catalog.commit()
    run_one(context, round_id, "generate")
    assert run_one(context, round_id, "diagnose")["detector"] == version.id
    image = images_of(context, round_id, SURVEY)[0]
    with context.workspace.catalog(read_only=True) as catalog:
        assert find_map(catalog, image.id, None)[1] == version.id


def test_strange_images_are_refused_and_it_has_no_weights(diagnosed: tuple[Context, str]) -> None:
    context, round_id = diagnosed
    version = score_dynamics.get_or_register_detector(context.workspace, LOOSE)
    with context.workspace.catalog(read_only=True) as catalog:
        photo = catalog.images.find(source="real")[0]
    assert score_dynamics.redrawable_images([photo]) == []
    with pytest.raises(ConfigRefused, match="1 of 1 images were not made"):
        predict(context, version.id, [photo], 4)
    with pytest.raises(ConfigRefused, match="was not made by a generator"):
        dynamics_charts.chart_dynamics(context, photo.id, (1, 1))
    made = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))[0]
    earlier = replace(made, settings=made.settings | {"correction": {"method": "ttc"}})
    assert score_dynamics.redrawable_images([earlier]) == [], "it was corrected one step later than today"
    folder = context.workspace.checkpoints.fetch(version.checkpoint)
    with pytest.raises(ModelRefused, match="no weights"):
        real_models().open_detector(folder)


def test_images_are_watched_as_they_were_steered(tmp_path: Path) -> None:
    """Correction is part of an image's settings, so that drawing it again takes the same way."""
    correction = {"regions": "everywhere", "dynamics": {**LOOSE.model_dump(mode="json"), "stop": 0.48}}
    plain, plain_round = begun(tmp_path / "plain")
    steered, steered_round = begun(tmp_path / "steered", correction=correction)
    for context, round_id in ((plain, plain_round), (steered, steered_round)):
        run_one(context, round_id, "generate")
    before, after = (
        {
            (image.prompt, image.seed): image
            for image in score_dynamics.redrawable_images(images_of(*where, SURVEY))
        }
        for where in ((plain, plain_round), (steered, steered_round))
    )
    assert set(before) == set(after)
    assert all(before[key].sha256 != after[key].sha256 for key in before)
    assert all(image.settings["correction"]["regions"] == "everywhere" for image in after.values())
    key = next(iter(before))
    curves = [
        dynamics_charts.chart_dynamics(context, images[key].id, (4, 4), LOOSE)["here"]
        for context, images in ((plain, before), (steered, after))
    ]
    assert curves[0] != curves[1]


def test_a_detector_that_steers_is_the_champion_unless_named(tmp_path: Path) -> None:
    context, round_id = begun(tmp_path / "workspace", guidance={"strength": 400.0})
    run_one(context, round_id, "generate")
    images = score_dynamics.redrawable_images(images_of(context, round_id, SURVEY))
    assert {image.settings["detector"] for image in images} == {"first"}


def test_the_command_keeps_maps_and_plots_a_point(
    diagnosed: tuple[Context, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, round_id = diagnosed
    monkeypatch.setattr(runtime_context, "real_models", lambda device: context.models)
    words = ["--workspace", str(context.workspace.path), "--json", "dynamics"]
    changed = [f"--set={name}={value}" for name, value in LOOSE.model_dump(exclude_defaults=True).items()]
    assert app.main([*words, "--round", round_id, *changed]) == 0
    told = json.loads(capsys.readouterr().out)
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(round_id=round_id, status="active")
    again = score_dynamics.redrawable_images(images)
    assert told["detector"] == score_dynamics.dynamics_id(LOOSE) and Path(told["picture"]).is_file()
    assert (told["images"], told["left_out"]) == (len(again), len(images) - len(again))
    assert 0 < told["suspected"] <= told["images"]
    assert app.main([*words, "--image", again[0].id, "--point", "3,4"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["picture"]).name == f"{again[0].id}-3-4.svg"
    assert app.main([*words, "--image", again[0].id]) == 1
