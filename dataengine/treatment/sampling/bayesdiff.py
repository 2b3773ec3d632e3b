"""BayesDiff (Kou et al. 2023, arXiv 2310.11142): uncertainty of the denoiser's last layer, to pixels.

The weights of the last linear or convolutional layer get a Gaussian posterior (last-layer Laplace
approximation, diagonal), everything before it stays as it is. So each prediction has a variance γ², which the
chain carries from step to step; what arrives at the image is its pixel-wise variance.

Where we differ from the authors' code: the chain is drawn without noise of its own, so that the map belongs
to the image that is drawn otherwise too; the curvature is the Gauss-Newton matrix of the squared error, exact
for a linear layer, in place of the empirical Fisher; the covariance is taken around the prediction at the
chain's own state, which has less noise; and the variance of the prediction over the states is included.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from dataengine.diagnosis.config import BayesDiffConfig
from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.statistics import MAD_TO_SIGMA
from dataengine.treatment.config import Precision, SamplingConfig
from dataengine.treatment.families.diffusion import (
    Conditioning,
    Prediction,
    Schedule,
    add_noise,
    broadcast_level,
)
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import (
    Step,
    Stepper,
    Steppers,
    as_tensor,
    autocast,
    denoise,
    encode,
    sample,
    size_of,
)
from dataengine.treatment.sampling.seeded_noise import SeededNoise

STREAM = 0xBA7E5
"""Separates the noise of the estimates from the initial noise of images."""
POSTERIOR = "posterior.safetensors"
"""File of a saved posterior."""
FITTED_AT_ONCE = 16
BELOW = 127 / 255
"""The highest 8-bit confidence that does not count as an artifact."""
TINY = 1e-30

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Posterior:
    """The variances of the last layer's weights and biases.

    Outputs share their inputs and the noise of the likelihood, so that one row of weights stands for all.
    """

    layer: str
    """The layer's name, "component.path"."""
    weight: Tensor
    """float32: (inputs,) of a linear layer, (1, inputs, height, width) of a convolution."""
    bias: float
    """Variance of each bias; 0 for a layer without."""

    def save(self, folder: Path) -> None:
        """Write `posterior.safetensors`."""
        from safetensors.torch import save_file

        tensors = {"weight": self.weight.contiguous(), "bias": torch.tensor([self.bias])}
        save_file(tensors, folder / POSTERIOR, metadata={"layer": self.layer})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `posterior.safetensors`."""
        from safetensors import safe_open

        with safe_open(folder / POSTERIOR, "pt") as file:
            layer = (file.metadata() or {})["layer"]
            return cls(layer, file.get_tensor("weight"), float(file.get_tensor("bias")))


def output_variance(layer: Layer, posterior: Posterior, features: Tensor) -> Tensor:
    """γ²: the variance of the layer's output for its input `features`, of the output's shape.

    Σ_j φ_j²·s_j² + s_b², by the independence of the weights.
    """
    weight = posterior.weight.to(features)
    squares = features.square()
    if isinstance(layer, nn.Conv2d):
        found = F.conv2d(squares, weight, None, layer.stride, layer.padding, layer.dilation)
        return (found + posterior.bias).expand(-1, layer.out_channels, -1, -1)
    return ((squares @ weight)[..., None] + posterior.bias).expand(*squares.shape[:-1], layer.out_features)


def curvature(layer: Layer, features: Tensor) -> tuple[Tensor, float]:
    """Diagonal Gauss-Newton curvature of ½‖output − target‖²: Σ φ² for each weight of one output, and the
    number of its values for the bias."""
    squares = features.square()
    if isinstance(layer, nn.Conv2d):
        shape = (1, layer.in_channels, *layer.kernel_size)
        ones = torch.ones_like(
            F.conv2d(
                squares[:, :1],
                squares.new_zeros(1, 1, *layer.kernel_size),
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
            )
        )
        found = conv2d_weight(squares, shape, ones, layer.stride, layer.padding, layer.dilation)
        return found, float(ones.numel())
    return squares.flatten(0, -2).sum(0), float(squares[..., 0].numel())


class LastLayer:
    """Reads the input of a denoiser's last layer, and how its output becomes the prediction."""

    def __init__(self, family: GeneratorFamily, name: str) -> None:
        """Raises `ConfigRefused` where the generator has no such linear or convolutional layer."""
        self.name = name
        self.layer = _layer_named(family, name)
        self._family = family
        self._places: dict[tuple[int, ...], Tensor] = {}

    @contextmanager
    def reading(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Collects (input, output) of the layer's calls within the block."""
        calls: list[tuple[Tensor, Tensor]] = []
        handle = self.layer.register_forward_hook(
            lambda module, given, output: calls.append((given[0].detach().float(), output.detach().float()))
        )
        try:
            yield calls
        finally:
            handle.remove()

    def read(
        self,
        calls: Sequence[tuple[Tensor, Tensor]],
        latents: Tensor,
        times: Tensor,
        conditioning: Conditioning,
        guidance: float,
    ) -> tuple[Tensor, Tensor]:
        """(features, prediction NCHW) of one prediction at `latents`, its guidance applied to both."""
        features, output = (
            _guided(torch.cat(parts), len(latents), guidance) for parts in zip(*calls, strict=True)
        )
        return features, self.arranged(output, latents, times, conditioning, guidance)

    def arranged(
        self, output: Tensor, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """Values of the layer's output, or of its variance, as the family arranges them to NCHW."""
        shape = (*output.shape[1:], *latents.shape[1:])
        if shape not in self._places:
            self._places[shape] = self._traced(latents[:1], times[:1], conditioning.rows([0]), guidance)
        return output.flatten(1)[:, self._places[shape].flatten()].reshape(-1, *latents.shape[1:])

    def _traced(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Where each value of the prediction, CHW, lies in the layer's output: found by handing indices on.

        Raises `ConfigRefused` where the prediction is something else than a rearrangement of that output.
        """
        kept: list[Tensor] = []

        def numbered(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            kept.append(output.detach().float())
            indices = torch.arange(output[0].numel(), dtype=torch.float32, device=output.device)
            return indices.reshape(output.shape[1:]).expand(output.shape)

        with torch.no_grad():
            predicted = self._family.predict(latents, times, conditioning, guidance)[0]
            handle = self.layer.register_forward_hook(numbered)
            try:
                places = self._family.predict(latents, times, conditioning, guidance)[0]
            finally:
                handle.remove()
        found = places.round().long()
        output = _guided(torch.cat(kept), 1, guidance).flatten() if kept else predicted.new_zeros(0)
        inside = torch.equal(found.float(), places) and found.min() >= 0 and found.max() < output.numel()
        if not inside or not torch.allclose(output[found], predicted, rtol=0.05, atol=0.01):
            raise ConfigRefused(
                f"the prediction of this {self._family.name} is not the output of {self.name}, its last "
                "linear or convolutional layer, so that BayesDiff does not apply; use score dynamics"
            )
        return found


def _guided(values: Tensor, count: int, guidance: float) -> Tensor:
    """Rows of a call with guidance, plain and then prompted, combined as the prediction is."""
    if len(values) == 2 * count:
        plain, prompted = values.chunk(2)
        return plain + guidance * (prompted - plain)
    if len(values) != count:
        raise ConfigRefused(
            f"the last layer was asked {len(values)} times for {count} images; expected once, or twice with "
            "guidance. Use score dynamics for this generator"
        )
    return values


def _layer_named(family: GeneratorFamily, name: str) -> Layer:
    component, _, path = name.partition(".")
    network = family.modules().get(component)
    try:
        found = None if network is None else network.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, (nn.Linear, nn.Conv2d)):
        raise ConfigRefused(
            f"this {family.name} has no linear or convolutional layer {name}, which the posterior is of; fit "
            "one to this generator"
        )
    if isinstance(found, nn.Conv2d) and not _is_plain(found):
        raise ConfigRefused(
            f"{name} is a convolution in groups, or padded by {found.padding!r}, {found.padding_mode}; "
            "BayesDiff supports plain ones. Use score dynamics for this generator"
        )
    return found


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def last_layer_name(
    family: GeneratorFamily, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float
) -> str:
    """Name of the linear or convolutional layer that is asked last. Raises `ConfigRefused` without one."""
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=f"{component}.{path}": called.append(name))
        for component, network in family.modules().items()
        for path, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    try:
        with torch.no_grad():
            family.predict(latents, times, conditioning, guidance)
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ConfigRefused(
            f"the denoiser of this {family.name} has no linear or convolutional layer, so BayesDiff has no "
            "last layer to be uncertain about; use score dynamics"
        )
    return called[-1]


@torch.no_grad()
def fit_posterior(
    family: GeneratorFamily,
    images: NDArray[np.uint8],
    prompts: Sequence[str],
    config: BayesDiffConfig,
    report: Report = no_report,
) -> Posterior:
    """Fit the last layer's posterior to real images, uint8 NHWC, with their prompts, one time for each.

    Precision of a weight: Σ φ² over the examples, plus that of the prior; the likelihood has variance 1, as
    the authors' has. Raises `ConfigRefused` without images, and where the denoiser has no last layer.
    """
    if not len(images):
        raise ConfigRefused(
            "there is no image to fit the posterior of the last layer to; import some that the generator "
            "could have learned from, by `clinic import FOLDER --source real`"
        )
    rng = torch.Generator().manual_seed(config.seed)
    conditioning, guidance = encode(family, list(prompts)), family.training_guidance
    layer: LastLayer | None = None
    weight, bias = torch.zeros(()), 0.0
    for start in range(0, len(images), FITTED_AT_ONCE):
        report(start, len(images), "fitting the last layer")
        rows = slice(start, start + FITTED_AT_ONCE)
        clean = family.encode_images(as_tensor(images[rows]).to(family.device)).float()
        times = family.random_times(len(clean), rng)
        noise = torch.randn(clean.shape, generator=rng).to(clean)
        latents = add_noise(clean, noise, *family.levels(times))
        asked = conditioning.rows(rows).to(family.device)
        if layer is None:
            first = (latents[:1], times[:1], asked.rows([0]), guidance)
            layer = LastLayer(family, last_layer_name(family, *first))
        with layer.reading() as calls:
            family.predict(latents, times, asked, guidance)
        features, _ = layer.read(calls, latents, times, asked, guidance)
        added, count = curvature(layer.layer, features)
        weight, bias = weight + added.cpu(), bias + count
    assert layer is not None
    without = layer.layer.bias is None
    return Posterior(
        layer=layer.name,
        weight=1 / (weight + config.prior_precision),
        bias=0.0 if without else 1 / (bias + config.prior_precision),
    )


def step_factors(prediction: Prediction, schedule: Schedule, step: int) -> tuple[Tensor, Tensor]:
    """(a, b) of x_s = a·x_t + b·output: DDIM's step for noise, Euler's for velocity."""
    alpha, sigma = schedule.alpha[step], schedule.sigma[step]
    after, noise = schedule.next_alpha[step], schedule.next_sigma[step]
    if prediction == "flow":
        return after + noise, noise * alpha - after * sigma
    return after / alpha, noise - after * sigma / alpha


def next_variance(
    a: Tensor, b: Tensor, variance: Tensor, covariance: Tensor, output_variance: Tensor
) -> Tensor:
    """Var(x_s) = a²·Var(x_t) + 2ab·Cov(x_t, ε_t) + b²·Var(ε_t); an estimate below 0 counts as 0."""
    return (a**2 * variance + 2 * a * b * covariance + b**2 * output_variance).clamp(min=0)


@dataclass
class VarianceCarrier:
    """A `Stepper` for one batch and one chain that carries the variance of x_t along, and changes nothing.

    After the first step every step asks the model `samples` times more, at states drawn around its own.
    """

    posterior: Posterior
    config: BayesDiffConfig
    seeds: Sequence[int]
    inner: Stepper = denoise
    variance: Tensor | None = None
    """Var(x_s) after the last step, of the latents' shape; None before the first."""
    state: Tensor | None = None
    """x_s after the last step; the clean latents at the end of the chain."""
    _layer: LastLayer | None = None

    def __post_init__(self) -> None:
        self.noise = SeededNoise(STREAM, self.config.seed, self.seeds)

    @torch.no_grad()
    def __call__(
        self,
        family: GeneratorFamily,
        latents: Tensor,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        guidance: float,
        precision: Precision = "float32",
    ) -> Step:
        """The step of `inner`. Raises `ConfigRefused` where the posterior does not fit the generator."""
        if family.prediction not in ("epsilon", "flow"):
            raise ConfigRefused(
                f"{family.name} predicts {family.prediction!r}; BayesDiff carries variance through DDIM "
                "steps of noise prediction and Euler steps of flow matching"
            )
        layer = self._layer = self._layer or LastLayer(family, self.posterior.layer)
        times = schedule.times[step].expand(len(latents))
        result = self.inner(family, latents, conditioning, schedule, step, guidance, precision)
        asked = (result.asked, times, conditioning, guidance)
        with autocast(latents.device, precision), layer.reading() as calls:
            family.predict(*asked)
        features, centre = layer.read(calls, *asked)
        spread = layer.arranged(output_variance(layer.layer, self.posterior, features), *asked)
        before = torch.zeros_like(centre) if self.variance is None else self.variance
        covariance = torch.zeros_like(centre)
        if before.any():
            moved, varied = self._sampled(family, asked, centre, before, precision)
            covariance, spread = moved, spread + varied
        a, b = (broadcast_level(each, centre) for each in step_factors(family.prediction, schedule, step))
        self.variance = next_variance(a, b, before, covariance, spread)
        self.state = result.latents
        return result

    def _sampled(
        self,
        family: GeneratorFamily,
        asked: tuple[Tensor, Tensor, Conditioning, float],
        centre: Tensor,
        variance: Tensor,
        precision: Precision,
    ) -> tuple[Tensor, Tensor]:
        """Cov(x_t, ε_θ(x_t)) and Var(ε_θ(x_t)) by states drawn from N(x_t, Var(x_t))."""
        state, times, conditioning, guidance = asked
        deviation = variance.sqrt()
        covariance, varied = torch.zeros_like(centre), torch.zeros_like(centre)
        for _ in range(self.config.samples):
            shift = deviation * self.noise.draw(deviation)
            with autocast(state.device, precision):
                output = family.predict(state + shift, times, conditioning, guidance)
            change = output.float() - centre
            covariance += shift * change / self.config.samples
            varied += change.square() / self.config.samples
        return covariance, varied

    def pixel_variance(self, family: GeneratorFamily, clean: Tensor) -> Tensor:
        """The variance of the images of the final latents `clean`, float32 NHW, the mean of the channels.

        "latent": that of the latents themselves. "pixel": over decoded draws from N(clean, Var).
        """
        if self.variance is None:
            raise ConfigRefused("no step has been taken yet, so there is no variance")
        if self.config.space == "latent":
            return self.variance.mean(1)
        deviation = self.variance.sqrt()
        plain = family.decode(clean).float()
        total = torch.zeros_like(plain)
        for _ in range(self.config.samples):
            drawn = family.decode(clean + deviation * self.noise.draw(deviation)).float()
            total += (drawn - plain).square()
        return (total / self.config.samples).mean(1)


def variance_confidence(variance: NDArray[np.floating[Any]], deviations: float) -> NDArray[np.float32]:
    """A variance map HW as confidence in [0, 1]: at least 0.5 where it exceeds the image's median by
    `deviations` scaled MADs. The rule is that of score dynamics; BayesDiff names none."""
    values = variance.astype(np.float64)
    median = np.median(values)
    limit = deviations * MAD_TO_SIGMA * np.median(np.abs(values - median))
    excess = np.maximum(values - median, 0) / max(limit, TINY)
    graded = excess / (excess + 1)
    found = np.where(excess > 1, np.maximum(graded, 0.5), np.minimum(graded, BELOW))
    return found.astype(np.float32)


@torch.no_grad()
def watch_variance(
    family: GeneratorFamily,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    posterior: Posterior,
    config: BayesDiffConfig,
    steppers: Steppers | None = None,
    report: Report = no_report,
) -> list[NDArray[np.float32]]:
    """The variance map of every image, sampled as by `sampling.generate`: float32 HW in pixels, or in latents
    for `space="latent"`. Raises `ConfigRefused` as `VarianceCarrier` does."""
    size = size_of(family, settings)
    conditioning = encode(family, prompts)
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(seeds), settings.batch):
        rows = slice(start, start + settings.batch)
        inner = denoise if steppers is None else steppers(rows)
        carrier = VarianceCarrier(posterior, config, list(seeds[rows]), inner)
        clean = sample(
            family,
            conditioning.rows(rows).to(family.device),
            family.initial_latents(seeds[rows], size),
            settings,
            on_step=partial(report, start, len(seeds), "watching"),
            stepper=carrier,
        )
        found += list(carrier.pixel_variance(family, clean).cpu().numpy())
    return found
