"""Everything that runs over a generator runs on those that open by their own call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.quality.config import GuardConfig
from dataengine.records import GeneratorVersion
from dataengine.records.images import JUDGE
from dataengine.treatment.config import (
    LoraSettings,
    OfflineConfig,
    RegionConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.guided_sampling.config import CorrectionConfig, GuidanceConfig
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.tuning.sharing import blend, fuse
from pipelines.config import GenerateConfig, PromptChoice, TreatmentRun
from pipelines.detectors import score_dynamics
from pipelines.detectors.predict import predict
from pipelines.generators.draw import generate_batch, lora_folder, make_task, open_generator
from pipelines.generators.guided_sampling import open_steering
from pipelines.generators.register import register_generator, register_strength
from pipelines.jobs.compare_generators import compare_job
from pipelines.jobs.repair_files import repair_files
from pipelines.jobs.treat_generator import treat_job
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.selections.config import RepairRun
from pipelines.services.model_card import model_card
from pipelines.services.training_free import inpaint_folder
from storage.opening import create_workspace
from tests.dataengine.treatment.families.tiny_pipelines import save_tiny
from tests.dataengine.treatment.tiny import PROMPTS, SIDE
from tests.fake_workspace import real_picture
from tests.fakes import TinyDetector, fake_models, with_methods
from tests.pipelines.repair.world import add_detector

pytestmark = pytest.mark.generators

KINDS = ("Flux2KleinPipeline", "QwenImagePipeline", "PixArtSigmaPipeline")
SAMPLING = SamplingConfig(steps=6, batch=2)


@dataclass(frozen=True)
class Bench:
    """A workspace with a generator of one class, and the same treated."""

    context: Context
    folder: Path
    base: GeneratorVersion
    treated: GeneratorVersion
    treatment: str


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    place = tmp_path_factory.mktemp(request.param)
    workspace = create_workspace(place / "workspace")
    add_detector(workspace, "redness", 0.2)
    with workspace.catalog() as catalog:
        catalog.detectors.promote("redness", "test", "the first")
        catalog.images.add_many([real_picture(workspace, "a red house", seed) for seed in range(6)])
        catalog.commit()
    fakes = fake_models()
    models = with_methods(
        real_models("cpu"), open_detector=TinyDetector.open, artifact_maps=fakes.artifact_maps
    )
    context = Context(workspace, models)
    folder = save_tiny(request.param, place / "generator")
    base = register_generator(workspace, str(folder), "candidate", licence="MIT")
    answer = treat_job(context, treatment(base))
    with workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(answer["treated"])
    return Bench(context, folder, base, treated, answer["treatment"])


def treatment(base: GeneratorVersion) -> dict[str, Any]:
    """Of all objectives, with what saves memory."""
    tuning = TreatmentConfig(
        updates=3,
        batch=2,
        grad_steps=2,
        truncation="random",
        sampling=SamplingConfig(steps=2, batch=2, height=SIDE, width=SIDE),
        checkpointing=True,
        offload=("text", "activations"),
        # So weak that an update is kept, since the confidence falls.
        region=RegionConfig(beta=1e-6),
        offline=OfflineConfig(gamma=1e-6),
        lora=LoraSettings(rank=2, alpha=3.0, targets="all"),
        learning_rate=2e-3,
        guard=GuardConfig(every=1, prompts=1, seeds=2, change=(0, 1), detail=(0, 99), diversity=(0, 99)),
    )
    settings = TreatmentRun(
        generator=base.id,
        prompts=PromptChoice(source="given", texts=PROMPTS[:2]),
        judge=PromptChoice(source="given", texts=PROMPTS[2:]),
        judge_seeds=1,
        tuning=tuning,
    )
    return {"run": "treat-1", "settings": settings.model_dump(mode="json")}


def drawn(bench: Bench, version: GeneratorVersion, **steering: Any) -> np.ndarray:
    """Two images of a version as rounds draw them, uint8 NHWC, as signed numbers."""
    family = open_generator(bench.context, version)
    config = GenerateConfig(sampling=SAMPLING, **steering)
    opened = open_steering(bench.context, config.model_dump(mode="json"), family)
    return generated(bench, family, opened.steppers(PROMPTS[:2], [0, 1]))


def generated(bench: Bench, family: Any, steppers: Any = None) -> np.ndarray:
    given = {} if steppers is None else {"steppers": steppers}
    pixels: np.ndarray = bench.context.models.generate(family, list(PROMPTS[:2]), [0, 1], SAMPLING, **given)
    return pixels.astype(int)


def treats(bench: Bench, place: Path) -> None:
    with bench.context.workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(bench.treatment)
        judged = catalog.images.find(generator_id=bench.treated.id, purpose=JUDGE)
    assert found.result["judged"]["pairs"] == len(judged) == 2
    assert np.abs(drawn(bench, bench.base) - drawn(bench, bench.treated)).max() > 0


def compares(bench: Bench, place: Path) -> None:
    done = compare_job(bench.context, {"treatment": bench.treatment, "prompts": ["a new prompt"], "seeds": 2})
    assert done == {"pairs": 2}


def corrects(bench: Bench, place: Path) -> None:
    everywhere = CorrectionConfig(regions="everywhere", cover=1.0)
    plain, corrected = drawn(bench, bench.base), drawn(bench, bench.base, correction=everywhere)
    assert np.abs(plain - corrected).max() > 0
    by_dynamics = drawn(bench, bench.base, correction=CorrectionConfig())
    assert by_dynamics.shape == plain.shape


def guides(bench: Bench, place: Path) -> None:
    plain = drawn(bench, bench.base)
    for guidance in (GuidanceConfig(), GuidanceConfig(kind="reward", scale=50.0)):
        assert np.abs(drawn(bench, bench.base, guidance=guidance) - plain).max() > 0


def predicts_dynamics(bench: Bench, place: Path) -> None:
    """Of images that were drawn, corrected and stored."""
    family = open_generator(bench.context, bench.base)
    tasks = [make_task(prompt, 7, 0.0) for prompt in PROMPTS[:2]]
    config = GenerateConfig(sampling=SAMPLING, correction=CorrectionConfig())
    generate_batch(bench.context, family, bench.base, tasks, config, "survey")
    workspace = bench.context.workspace
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(generator_id=bench.base.id, purpose="survey")
    version = score_dynamics.get_or_register_detector(workspace, DynamicsConfig())
    assert len(predict(bench.context, version.id, images, 2)) == len(images) == 2


def inpaints(bench: Bench, place: Path) -> None:
    rng = np.random.default_rng(0)
    given, mask = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    mask[8:24, 8:24] = 255
    for kind, pixels in {"images": given, "masks": mask}.items():
        (place / kind).mkdir()
        Picture.fromarray(pixels).save(place / kind / "a.png")
    workspace = bench.context.workspace
    sampling = SamplingConfig(steps=3, batch=1)
    for number, generator in enumerate((str(bench.folder), bench.treated.id)):
        out = place / f"out{number}"
        inpaint_folder(
            place, out, generator, lambda: workspace, sampling, repeats=2, prompt="a cat", device="cpu"
        )
        changed = (np.array(Picture.open(out / "a.png")) != given).any(-1)
        assert changed[8:24, 8:24].mean() > 0.5 and not changed[mask == 0].any()


def repairs(bench: Bench, place: Path) -> None:
    pixels = np.full((2 * SIDE, 2 * SIDE, 3), 120, np.uint8)
    pixels[20:32, 20:32] = (250, 5, 5)
    (place / "photos").mkdir()
    Picture.fromarray(pixels).save(place / "photos" / "a.png")
    run = RepairRun(
        generator=bench.base.id,
        prompt="a wall",
        repair=RepairConfig(draws=2, repeats=1),
        sampling=SamplingConfig(steps=3),
    )
    done = repair_files(bench.context, run, [place / "photos"], place / "out")
    assert (done["regions"], done["refused"]) == (1, 0)


def scales_its_lora(bench: Bench, place: Path) -> None:
    versions = [register_strength(bench.context.workspace, bench.treated.id, each) for each in (0.0, 0.5)]
    none, half, base = (drawn(bench, version) for version in (*versions, bench.base))
    assert np.abs(none - base).max() == 0
    assert np.abs(half - base).max() > 0 and np.abs(half - drawn(bench, bench.treated)).max() > 0


def takes_several_loras(bench: Bench, place: Path) -> None:
    """Two halves of one are the whole; fused, it needs none."""
    lora = lora_folder(bench.context, bench.treated)
    assert lora is not None
    whole, halves = open_generator(bench.context, bench.treated), open_generator(bench.context, bench.base)
    blend(halves, {"one": (lora, 0.5), "other": (lora, 0.5)})
    images = [generated(bench, family) for family in (whole, halves)]
    fuse(whole)
    assert not whole.adapter.parameters()
    images.append(generated(bench, whole))
    assert all(np.abs(images[0] - each).max() <= 2 for each in images[1:])
    assert np.abs(images[0] - drawn(bench, bench.base)).max() > 2


def is_loaded_as_its_card_says(bench: Bench, place: Path) -> None:
    """The code of the model card, run."""
    with bench.context.workspace.catalog(read_only=True) as catalog:
        found, detector = catalog.treatments.get(bench.treatment), catalog.detectors.get("redness")
    card = model_card(found, {}, bench.base, bench.treated, detector)
    family: Any = open_generator(bench.context, bench.treated)
    assert found.result["reader"] == family.adapter.reader and f"`{family.adapter.reader}`" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    lora = lora_folder(bench.context, bench.treated)
    code = code.replace("FOLDER OF THIS FILE", str(lora)).replace(
        "PATH OR HUB ID OF candidate", str(bench.folder)
    )
    ran: dict[str, Any] = {}
    exec(code, ran)
    ours = family.modules()[family.adapter._component].state_dict()
    theirs = getattr(ran["pipeline"], family.adapter._component).state_dict()

    def plain(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [weight for name, weight in sorted(state.items()) if "lora_" in name]

    pairs = list(zip(plain(ours), plain(theirs), strict=True))
    assert pairs and all(torch.equal(one, other) for one, other in pairs)


WORK: dict[str, Callable[[Bench, Path], None]] = {
    each.__name__: each
    for each in (
        treats,
        compares,
        corrects,
        guides,
        predicts_dynamics,
        inpaints,
        repairs,
        scales_its_lora,
        takes_several_loras,
        is_loaded_as_its_card_says,
    )
}


@pytest.mark.parametrize("work", WORK)
def test_everything_that_runs_over_a_generator_runs_on_it(bench: Bench, work: str, tmp_path: Path) -> None:
    WORK[work](bench, tmp_path)
