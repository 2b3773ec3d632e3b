"""Self-refining training in a workspace: from its real pictures to a generator that draws like any."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import app
from dataengine.diagnosis.config import DynamicsConfig, HighlighterConfig
from dataengine.errors import Cancelled, ConfigRefused, NotFound, Paused
from dataengine.records import PAUSABLE, Report
from dataengine.treatment.config import SamplingConfig, UNetConfig
from dataengine.treatment.refining.config import RefiningConfig
from dataengine.treatment.sampling.sampler import generate
from dataengine.treatment.sampling.trajectory import watch_dynamics
from pipelines.config import RefiningRun
from pipelines.generators.draw import open_generator
from pipelines.generators.files import reads_prompts
from pipelines.generators.register import register_generator
from pipelines.jobs.refine_generator import refine_generator
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.services import queue
from pipelines.services.training_free import describe_refining
from pipelines.worker.handlers import handler_of
from storage.opening import create_workspace
from tests.dataengine.treatment import tiny
from tests.fake_workspace import prepare

TRAINING = RefiningConfig(
    steps=4,
    cycle=1,
    batch=2,
    sample_steps=2,
    highlighted=12,
    highlighter=HighlighterConfig(epochs=1, batch=12, lr=1e-4),
    checkpoint_every=1,
)
PLAN = RefiningRun(network=UNetConfig(channels=(8, 16)), refining=TRAINING, limit=12)

MEASURED = PLAN.model_copy(update={"refining": TRAINING.model_copy(update={"measured": 10})})


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    workspace = create_workspace(tmp_path / "w")
    prepare(workspace, real=24)
    yield Context(workspace, real_models())
    workspace.close()


def with_report(context: Context, report: Report) -> Context:
    return Context(context.workspace, context.models, report)


def test_a_new_generator_is_registered_and_draws_and_is_watched(context: Context) -> None:
    version = refine_generator(context, "refine-a", PLAN)
    assert version.name == "unconditional 32²" and version.settings["refined"]["pictures"] == 12
    assert not reads_prompts(context.workspace, version), "a round draws with it only where it is named"
    assert version.settings["refined"]["maps"] == 2 and len(version.settings["refined"]["curve"]) == 4
    family = open_generator(context, version)
    settings = SamplingConfig(steps=10)
    assert generate(family, [""], [1], settings).shape == (1, 32, 32, 3)
    found, _ = watch_dynamics(family, ["whatever"], [1], settings, DynamicsConfig(form="paper"))
    assert found[0].regions.shape == (32, 32)
    assert refine_generator(context, "refine-a", PLAN) == version, "asked again, it answers with what it made"
    further = refine_generator(context, "refine-b", PLAN.model_copy(update={"generator": version.id}))
    assert further.parent == version.id and further.name == "unconditional 32², refined"


def test_it_ends_with_distances_to_held_out_images(context: Context) -> None:
    prepare(context.workspace, real=60)
    with context.workspace.catalog(read_only=True) as catalog:
        held_out = catalog.images.count(source="real", split="validation", status="active")
    assert held_out > 10, "as many are compared as are measured"
    refined = refine_generator(context, "refine-f", MEASURED).settings["refined"]
    assert refined["held_out"] == 10 and set(refined["before"]) == set(refined["after"]) == {"kid"}
    assert "readers" in refined["features"] and 0 <= refined["variation"] <= 1
    said = describe_refining(refined)
    assert "to 10 held-out images in features of" in said[0] and "KID" in said[0]
    assert ("same place" in said[-1]) == (refined["variation"] < 0.1)


def test_too_few_held_out_images_are_reported(context: Context) -> None:
    plan = PLAN.model_copy(update={"refining": TRAINING.model_copy(update={"refinement": 0.0, "steps": 2})})
    with context.workspace.catalog(read_only=True) as catalog:
        count = catalog.images.count(source="real", split="validation", status="active")
    assert count < 10
    refined = refine_generator(context, "refine-g", plan).settings["refined"]
    assert refined["after"] == {} and refined["variation"] is None
    (said,) = describe_refining(refined)
    assert f"{count} real validation images, 10 are needed" in said


def test_a_killed_run_goes_on_with_the_pictures_it_began_with(context: Context) -> None:
    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if message == "refining" and done == 3:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        refine_generator(with_report(context, stop), "refine-c", PLAN)
    prepare(context.workspace, real=40)
    steps: list[int] = []

    def follow(done: float, total: int, message: str = "", **figures: float) -> None:
        if message in ("training", "refining"):
            steps.append(done)

    again = refine_generator(with_report(context, follow), "refine-c", PLAN)
    assert steps[0] >= 3 and steps[-1] == 4 and again.settings["refined"]["pictures"] == 12


def test_a_paused_run_keeps_every_update(context: Context) -> None:
    asked = iter([False, True])
    pausing = Context(context.workspace, context.models, pausing=lambda: next(asked))
    plan = PLAN.model_copy(update={"refining": TRAINING.model_copy(update={"checkpoint_every": 100})})
    with pytest.raises(Paused, match="after 2 updates"):
        refine_generator(pausing, "refine-e", plan)
    steps: list[int] = []

    def follow(done: float, total: int, message: str = "", **figures: float) -> None:
        if message in ("training", "refining"):
            steps.append(done)

    refine_generator(with_report(context, follow), "refine-e", plan)
    assert steps == [3, 4] and "refine" in PAUSABLE


def test_a_registered_stable_diffusion_is_refined_with_its_captions(context: Context, tmp_path: Path) -> None:
    base = register_generator(context.workspace, str(tiny.stable_diffusion(tmp_path / "sd")), "tiny")
    version = refine_generator(context, "refine-d", PLAN.model_copy(update={"generator": base.id}))
    assert version.name == "tiny, refined" and version.parent == base.id
    drawn = [
        generate(open_generator(context, each), ["a red house"], [1], SamplingConfig(steps=2))
        for each in (base, version)
    ]
    assert not np.array_equal(*drawn)


def test_what_cannot_work_is_refused(context: Context, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="clinic generators"):
        refine_generator(context, "r", PLAN.model_copy(update={"generator": "nobody"}))
    flux = register_generator(context.workspace, str(tiny.flux(tmp_path / "flux")), "flux")
    with pytest.raises(ConfigRefused, match="cannot be refined"):
        refine_generator(context, "r", PLAN.model_copy(update={"generator": flux.id}))
    empty = Context(create_workspace(tmp_path / "empty"), context.models)
    with pytest.raises(ConfigRefused, match="clinic import FOLDER --source real"):
        refine_generator(empty, "r", PLAN)
    with pytest.raises(ValueError, match="halved"):
        UNetConfig(side=33)
    with pytest.raises(ValueError, match="multiples of 8"):
        UNetConfig(channels=(12,))


def test_the_command_trains_here_or_asks_a_worker(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["network.channels=[8,16]", "refining.steps=2", "refining.batch=2", "refining.refinement=0"]
    words = ["--workspace", str(context.workspace.path), "refine", "--limit", "10", "--name", "mine"]
    words += [word for each in small for word in ("--set", each)]
    assert app.main([*words, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "mine, trained on 10 images, mean flaw map updated 0 times" in told
    assert "it reads no prompts" in told
    assert app.main([*words, "--worker"]) == 0
    with context.workspace.catalog(read_only=True) as catalog:
        job = catalog.jobs.list(kind="refine")[0]
        made = [each for each in catalog.generators.list() if each.name == "mine"]
    assert job.args["settings"]["refining"]["steps"] == 2 and job.state in queue.OPEN
    answer = handler_of("refine")(context, job.args)
    assert answer["generator"] == made[0].id and answer["maps"] == 0
