"""Callbacks on the stock pipelines of diffusers, called as anyone calls them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dataengine.errors import ConfigRefused
from dataengine.integrations.diffusers_callbacks import ArtifactLimit, DetectorGuidance, StepWatcher
from dataengine.treatment.config import RegionConfig
from dataengine.treatment.guided_sampling.config import GuidanceConfig
from tests.dataengine.treatment.families.tiny_pipelines import tiny_pipeline

STEPS = 5


class Bright(nn.Module):
    """A detector that calls bright pixels artifacts."""

    name = "bright"

    def confidence(self, images: Tensor) -> Tensor:
        return images.mean(1)


class Recorder(StepWatcher):
    """Keeps every x̂0 that the callback solves for."""

    def __call__(self, pipeline: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        before = kwargs["latents"].clone()
        after = super().__call__(pipeline, step, timestep, kwargs)
        assert torch.equal(after["latents"], before), "rearranged there and back"
        return after

    def begin(self) -> None:
        self.found: list[Tensor] = []

    def act(self, pipeline: Any, step: int, steps: int, latents: Tensor, clean: Tensor) -> Tensor:
        self.found.append(clean)
        return latents


def drawn(pipeline: Any, callback: Any = None, count: int = 1) -> np.ndarray:
    """Images of fixed seeds, float32 NHW3."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    more = {} if callback is None else {"callback_on_step_end": callback}
    return pipeline(
        ["a hand"] * count, num_inference_steps=STEPS, generator=generators, output_type="np", **more
    )[0]


def with_scheduler(pipeline: Any, name: str, **settings: Any) -> Any:
    import diffusers

    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)
    return pipeline


PIPELINES = {
    "packed flow": lambda: tiny_pipeline("FluxPipeline"),
    "flow": lambda: tiny_pipeline("StableDiffusion3Pipeline"),
    "ddim": lambda: with_scheduler(tiny_pipeline("StableDiffusionPipeline"), "DDIMScheduler"),
    "euler": lambda: with_scheduler(tiny_pipeline("StableDiffusionPipeline"), "EulerDiscreteScheduler"),
    "v-prediction": lambda: with_scheduler(tiny_pipeline("StableDiffusionPipeline-2"), "DDIMScheduler"),
    "dpm of first order": lambda: with_scheduler(
        tiny_pipeline("StableDiffusionPipeline"), "DPMSolverMultistepScheduler", solver_order=1
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_clean_latents_are_those_that_the_scheduler_works_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = PIPELINES[name]()
    kind = type(pipeline.scheduler)
    expected: list[Tensor] = []
    original = kind.step

    def step(self: Any, output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> Any:
        """The scheduler's own x̂0, by its own methods or by the definition of flow matching."""
        if self.step_index is None if hasattr(self, "step_index") else False:
            self._init_step_index(timestep)
        if kind.__name__.startswith("FlowMatch"):
            clean = sample - self.sigmas[self.step_index] * output
        elif kind.__name__ == "DPMSolverMultistepScheduler":
            clean = self.convert_model_output(output, sample=sample)
        else:
            more["return_dict"] = True
        done = original(self, output, timestep, sample, **more)
        if more["return_dict"]:
            clean, done = done.pred_original_sample, (done.prev_sample,)
        expected.append(clean)
        return done

    recorder = Recorder(pipeline, Bright())
    monkeypatch.setattr(kind, "step", step)
    drawn(pipeline, recorder)
    assert len(recorder.found) == STEPS - 1 and len(expected) == STEPS
    for found, clean in zip(recorder.found, expected[1:], strict=True):
        assert torch.allclose(found, recorder.layout.outside(clean.float()), atol=2e-3)


def test_a_callback_that_changes_nothing_changes_nothing() -> None:
    pipeline = PIPELINES["euler"]()
    before = drawn(pipeline)
    assert np.array_equal(drawn(pipeline, Recorder(pipeline, Bright())), before)
    assert np.array_equal(drawn(pipeline), before), "the pipeline is as it was"


@pytest.mark.parametrize("name", ["flow", "ddim", "euler"])
def test_guidance_lowers_what_the_detector_finds(name: str) -> None:
    pipeline = PIPELINES[name]()
    guide = DetectorGuidance(pipeline, Bright(), GuidanceConfig(strength=400.0, last_strength=50.0))
    plain, guided = drawn(pipeline, count=2), drawn(pipeline, guide, count=2)
    assert (guided.mean((1, 2, 3)) < plain.mean((1, 2, 3)) - 0.001).all()
    assert np.array_equal(drawn(pipeline, count=2), plain)


def test_each_image_of_a_batch_is_guided_as_if_alone() -> None:
    pipeline = PIPELINES["ddim"]()
    guide = DetectorGuidance(pipeline, Bright(), GuidanceConfig(strength=400.0))
    assert np.allclose(drawn(pipeline, guide, count=2)[:1], drawn(pipeline, guide), atol=1e-5)


def test_guidance_in_regions_leaves_the_rest() -> None:
    class Corner(Bright):
        def confidence(self, images: Tensor) -> Tensor:
            inside = torch.zeros_like(images[:, 0])
            inside[:, :8, :8] = 1
            return images.mean(1) * inside

    pipeline = PIPELINES["ddim"]()
    config = GuidanceConfig(strength=400.0, region=RegionConfig(threshold=0.01, sigma=0, dilation=0))
    found: list[Tensor] = []

    class Kept(DetectorGuidance):
        def act(self, *given: Any) -> Tensor:
            moved = super().act(*given)
            found.append(moved - given[3])
            return moved

    drawn(pipeline, Kept(pipeline, Corner(), config))
    moved = torch.stack(found).abs().amax((0, 1, 2))
    side = moved.shape[-1]
    assert moved[: side // 4, : side // 4].max() > 0 and moved[side // 2 :].max() == 0


def test_an_image_beyond_the_limit_is_marked_or_ends_the_call() -> None:
    pipeline = PIPELINES["flow"]()
    plain = drawn(pipeline, count=2)
    watch = ArtifactLimit(pipeline, Bright(), limit=2.0)
    assert np.array_equal(drawn(pipeline, watch, count=2), plain)
    assert watch.flagged == [False, False] and watch.stopped_at is None
    assert watch.confidence == pytest.approx(plain.mean(-1).max((1, 2)).tolist(), abs=1e-3)
    low = min(watch.confidence) - 0.05
    marked = ArtifactLimit(pipeline, Bright(), limit=low)
    assert np.array_equal(drawn(pipeline, marked, count=2), plain) and marked.flagged == [True, True]
    stopping = ArtifactLimit(pipeline, Bright(), limit=0.0, action="stop", begin_at=0.5)
    stopped = drawn(pipeline, stopping, count=2)
    assert stopping.stopped_at == 2 and stopped.shape == plain.shape
    assert np.array_equal(drawn(pipeline, count=2), plain), "the next call is not stopped"


def test_what_cannot_be_read_is_refused() -> None:
    stochastic = with_scheduler(tiny_pipeline("StableDiffusionPipeline"), "EulerAncestralDiscreteScheduler")
    with pytest.raises(ConfigRefused, match="EulerAncestralDiscreteScheduler cannot be read"):
        DetectorGuidance(stochastic, Bright())
    noisy = with_scheduler(
        tiny_pipeline("StableDiffusionPipeline"),
        "DPMSolverMultistepScheduler",
        algorithm_type="sde-dpmsolver++",
    )
    with pytest.raises(ConfigRefused, match="without added noise"):
        ArtifactLimit(noisy, Bright(), 0.5)
    pipeline = PIPELINES["ddim"]()
    with pytest.raises(ConfigRefused, match="no gradient of the denoiser"):
        DetectorGuidance(pipeline, Bright(), GuidanceConfig(kind="reward"))
    with pytest.raises(ConfigRefused, match="share of the steps"):
        ArtifactLimit(pipeline, Bright(), 0.5, begin_at=2)
    other = Recorder(pipeline, Bright(), height=64, width=64)
    with pytest.raises(ConfigRefused, match="give the callback the height and width"):
        drawn(pipeline, other)
