"""Callbacks for any text-to-image pipeline of diffusers: guide it by a detector, or watch it with one.

    pipeline(prompt, callback_on_step_end=DetectorGuidance(pipeline, detector))

After each step a pipeline hands out its latents only. x̂0 is solved from the latents before and after the
step, which is exact for first-order deterministic schedulers; the first step has no latents before it. The
path from latents to pixels is the pipeline's own, learned once (see `families.stock`).
"""

import copy
import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.diagnosis.dynamics import window_steps
from dataengine.errors import ConfigRefused
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.guided_sampling.config import GuidanceConfig
from dataengine.treatment.guided_sampling.guidance import Guide
from dataengine.treatment.sampling.sampler import Step

LATENTS = "latents"
SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
"""Those whose levels are read here; the last one is of second order, so its x̂0 is extrapolated."""


class StepWatcher(ABC):
    """What both callbacks share: x̂0 after a step, and its pixels."""

    def __init__(
        self, pipeline: Any, detector: Detector, height: int | None = None, width: int | None = None
    ) -> None:
        """`pipeline` is the one that will be called, for images of that size (default: its own).

        Raises `ConfigRefused` for a scheduler whose steps cannot be read, `ModelRefused` for a pipeline
        without a VAE.
        """
        scheduler = type(pipeline.scheduler).__name__
        if scheduler not in SCHEDULERS or _is_stochastic(pipeline.scheduler):
            raise ConfigRefused(
                f"the steps of {scheduler} cannot be read from their latents; use one of "
                f"{', '.join(SCHEDULERS)} without added noise"
            )
        self.detector = detector
        self.family = StockFamily(_twin(pipeline))
        size = height or self.family.size[0], width or self.family.size[1]
        self.layout = self.family.layout(size)
        self._before: Tensor | None = None

    def __call__(self, pipeline: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """`callback_on_step_end`. Raises `ConfigRefused` where the images have another size than stated."""
        latents = kwargs[LATENTS]
        if latents[0].numel() != self.layout.order.numel():
            raise ConfigRefused(
                f"the pipeline's latents are {tuple(latents.shape[1:])} and not {self.layout.shape}; give "
                "the callback the height and width of the images that are drawn"
            )
        after = self.layout.outside(latents.float())
        if step == 0:
            self._before = None
            self.begin()
        steps = len(pipeline.scheduler.timesteps)
        if self._before is not None:
            levels = levels_of(pipeline.scheduler, step)
            clean = solve_clean(self._before, after, *levels)
            after = self.act(pipeline, step, steps, after, clean)
            kwargs[LATENTS] = self.layout.inside(after).to(latents.dtype).view_as(latents)
        self._before = after
        return kwargs

    def begin(self) -> None:  # noqa: B027 (only one of the two has something to forget)
        """A new call of the pipeline."""

    @abstractmethod
    def act(self, pipeline: Any, step: int, steps: int, latents: Tensor, clean: Tensor) -> Tensor:
        """The latents that the next step starts from; `latents` and x̂0 NCHW as the VAE has them."""


class DetectorGuidance(StepWatcher):
    """Moves the latents of each step towards fewer artifacts, by the gradient of the detector's mean squared
    confidence through VAE and detector alone.

    This is the method of DIAMOND (arXiv 2602.00883): length λ from `strength` to `last_strength`, falling
    quadratically. With `config.region` it moves only inside the regions that the detector marks, as
    Focus-N-Fix restricts its training.
    """

    def __init__(
        self,
        pipeline: Any,
        detector: Detector,
        config: GuidanceConfig | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        """See `StepWatcher`. Raises `ConfigRefused` for kind "reward", which differentiates the
        denoiser."""
        self.config = config or GuidanceConfig()
        if self.config.kind != "clean":
            raise ConfigRefused(
                "a callback sees no gradient of the denoiser; use guidance of kind “clean”, or the "
                "generator's own guided sampling"
            )
        super().__init__(pipeline, detector, height, width)

    def act(self, pipeline: Any, step: int, steps: int, latents: Tensor, clean: Tensor) -> Tensor:
        """See `StepWatcher`."""
        guided = window_steps([1 - i / steps for i in range(steps)], self.config.start, self.config.stop)
        if step not in guided:
            return latents
        progress = guided.index(step) / max(len(guided) - 1, 1)
        result = Step(latents=latents, clean=clean, asked=latents)
        return Guide(self.config, [], self.detector).move(self.family, result, progress)


class ArtifactLimit(StepWatcher):
    """Watches the highest confidence of each image while it is drawn.

    `confidence` and `flagged` hold the newest figures, one for each image of the batch; "stop" ends the call
    when every image exceeds the limit, and then returns what is drawn so far.
    """

    def __init__(
        self,
        pipeline: Any,
        detector: Detector,
        limit: float,
        action: Literal["mark", "stop"] = "mark",
        begin_at: float = 0.6,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        """`begin_at` is the share of the steps after which x̂0 shows enough to be judged; the last step is
        always judged. The rest as in `StepWatcher`."""
        if not 0 <= begin_at <= 1:
            raise ConfigRefused(f"begin_at {begin_at} is a share of the steps, from 0 to 1")
        super().__init__(pipeline, detector, height, width)
        self.limit, self.action, self.begin_at = limit, action, begin_at
        self.begin()

    def begin(self) -> None:
        """See `StepWatcher`."""
        self.confidence: list[float] = []
        self.flagged: list[bool] = []
        self.stopped_at: int | None = None

    @torch.no_grad()
    def act(self, pipeline: Any, step: int, steps: int, latents: Tensor, clean: Tensor) -> Tensor:
        """See `StepWatcher`. Raises `ConfigRefused` for a pipeline that cannot be interrupted."""
        if step + 1 < max(self.begin_at * steps, 2) and step + 1 < steps:
            return latents
        found = self.detector.confidence(self.family.decode(clean)).flatten(1).amax(1)
        self.confidence = [float(each) for each in found]
        self.flagged = [each >= self.limit for each in self.confidence]
        if self.action == "stop" and all(self.flagged) and step + 1 < steps:
            if not hasattr(pipeline, "_interrupt"):
                raise ConfigRefused(f"{type(pipeline).__name__} cannot be stopped while it draws; use “mark”")
            pipeline._interrupt = True
            self.stopped_at = step
            return clean
        return latents


def solve_clean(
    before: Tensor, after: Tensor, alpha: float, sigma: float, next_alpha: float, next_sigma: float
) -> Tensor:
    """x̂0 of a deterministic first-order step from α·x0 + σ·ε to α′·x0 + σ′·ε with the same x̂0 and ε̂."""
    ratio = next_sigma / sigma
    return (after - ratio * before) / (next_alpha - ratio * alpha)


def levels_of(scheduler: Any, step: int) -> tuple[float, float, float, float]:
    """(α, σ, α′, σ′) before and after a step of one of `SCHEDULERS`."""
    if type(scheduler).__name__ == "DDIMScheduler":
        cumulative, times = scheduler.alphas_cumprod, scheduler.timesteps
        last = step + 1 >= len(times)
        squares = (
            cumulative[times[step]],
            scheduler.final_alpha_cumprod if last else cumulative[times[step + 1]],
        )
        pairs = [(float(each) ** 0.5, (1 - float(each)) ** 0.5) for each in squares]
    else:
        pairs = [_level(scheduler, float(scheduler.sigmas[step + each])) for each in (0, 1)]
    (alpha, sigma), (next_alpha, next_sigma) = pairs
    return alpha, sigma, next_alpha, next_sigma


def _level(scheduler: Any, sigma: float) -> tuple[float, float]:
    name = type(scheduler).__name__
    if name == "FlowMatchEulerDiscreteScheduler" or scheduler.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    if name == "EulerDiscreteScheduler":
        return 1.0, sigma
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


def _is_stochastic(scheduler: Any) -> bool:
    config = scheduler.config
    return bool(config.get("stochastic_sampling")) or str(config.get("algorithm_type", "")).startswith("sde")


def _twin(pipeline: Any) -> Any:
    """Another pipeline of the same networks, whose scheduler and state can be changed; its VAE is float32."""
    components = dict(pipeline.components)
    if components.get("vae") is not None and components["vae"].dtype != torch.float32:
        components["vae"] = copy.deepcopy(components["vae"]).float()
    components["scheduler"] = copy.deepcopy(components["scheduler"])
    takes = inspect.signature(type(pipeline).__init__).parameters
    settings = {
        name: pipeline.config[name] for name in takes if name not in components and name in pipeline.config
    }
    twin = type(pipeline)(**components, **settings)
    twin.set_progress_bar_config(disable=True)
    return twin
