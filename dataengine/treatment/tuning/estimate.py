"""Resource estimates before anything is loaded: peak memory and step time from configs alone.

One update is simulated with fake tensors, which have shapes and no data: every allocation, release and
multiplication is counted. Nothing is computed, so a model of twelve billion weights is simulated on a laptop.
Allocator fragmentation and driver memory are not included.
"""

import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dataengine.diagnosis.config import DetectorConfig
from dataengine.treatment.config import NftConfig, TreatmentConfig
from dataengine.treatment.families.diffusion import add_noise, training_target
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.objectives.batch import confidence_maps
from dataengine.treatment.objectives.nft import nft_loss
from dataengine.treatment.objectives.offline import offline_loss
from dataengine.treatment.objectives.pixel import all_pixels
from dataengine.treatment.objectives.preference import PairBatch, localized_preference
from dataengine.treatment.objectives.registry import active_objectives
from dataengine.treatment.sampling.sampler import autocast, denoise, guidance_of, size_of
from dataengine.treatment.tuning.weightless import family_without_weights

GIGABYTE = 1e9
OPTIMIZER = 4 * 4
"""Bytes per LoRA weight: weight, gradient and AdamW's two moments, in float32."""
NF4_BLOCK = 64
"""Values that share a scale in bitsandbytes' 4-bit weights."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The speed of a device; a multiply-add counts as two operations."""

    flops_per_s: float
    seconds_per_call: float = 0.0
    """Overhead of one tensor operation, which dominates small models."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The needs of one update of one process. Bytes are device memory."""

    weights_bytes: int
    """Bytes of all networks on the device, including LoRA, gradients and optimizer."""
    activations_bytes: int
    """Peak bytes in addition to the weights."""
    flops: float
    calls: int
    saved_bytes: int
    """Bytes saved for backward at the end of the forward pass."""

    @property
    def peak_bytes(self) -> int:
        """Peak bytes."""
        return self.weights_bytes + self.activations_bytes

    def seconds(self, rates: Rates) -> float:
        """Lower bound of the time of an update at these rates, in seconds."""
        return self.flops / rates.flops_per_s + self.calls * rates.seconds_per_call

    def text(self, rates: Rates | None = None) -> str:
        """A one-line summary for display."""
        weights, activations = (size / GIGABYTE for size in (self.weights_bytes, self.activations_bytes))
        parts = f"{weights:.2f} GB weights, {activations:.2f} GB activations"
        summary = f"{weights + activations:.2f} GB at the peak ({parts})"
        summary += f", {self.flops / 1e12:.3g} TFLOP per update"
        return f"{summary}, {self.seconds(rates):.3g} s" if rates else summary


class Ledger(TorchDispatchMode):
    """Counts the bytes of all live tensors created in its context, the calls that created them, and their
    operations.

    Torch's own `FlopCounterMode` in the same context would keep recomputed activations alive until backward
    ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.calls = self.flops = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in inputs}
        result = func(*args, **(kwargs or {}))
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.flops += int(counted(*args, **(kwargs or {}), out_val=result))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf, given)
        return result

    def _enter(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in given or key in self._known:
            return
        self.calls += 1
        self._known[key] = weakref.ref(storage, lambda _: self._leave(key, size))
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _leave(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.alive -= size


def preflight(
    config: TreatmentConfig,
    generator: Path | GeneratorFamily,
    detector: Any = None,
    dtype: torch.dtype = torch.float32,
    bits: int | None = None,
) -> Estimate:
    """The needs of one update, for a pipeline folder that is not loaded yet, or for a loaded generator.

    Without a detector its part is omitted. Raises `ModelRefused` for a folder that would not be loaded.
    """
    stored = stored_bits(generator, bits)
    with fake_tensors():
        return estimate(config, family_without_weights(generator, dtype), detector or NoDetector(), stored)


def estimate(
    config: TreatmentConfig,
    family: GeneratorFamily,
    detector: Any,
    bits: int | None = None,
) -> Estimate:
    """Run one update of `config` on fake tensors: generator (see `family_without_weights`) and detector.

    `bits` is 4 or 8 for a quantised base. Rewards are not simulated: their networks are small compared with a
    generator's. Must be called within `fake_tensors()`.
    """
    family.adapter.add(config.lora, seed=0)
    if config.checkpointing:
        family.use_checkpointing()
    lora = family.adapter.parameters()
    for weight in lora.values():
        weight.requires_grad_(True)
    steps = config.sampling.steps
    tracked = 1 if config.truncation in ("single", "direct") else config.grad_steps
    # Direct-Align's prediction comes after the whole chain.
    untracked = steps if config.truncation == "direct" else steps - tracked
    drawn = _simulate(lambda: _forward(config, family))
    parts: list[tuple[_Part, float]] = []
    if active_objectives(config):
        treated = _simulate(lambda: _treated(config, family, detector, tracked), lora)
        parts += [(treated, 1.0), (drawn, float(untracked))]
    if config.nft is not None:
        parts += _forward_process(config, config.nft, family, detector, lora)
    if config.regularised(family.distilled):
        parts.append((_simulate(lambda: _regularised(config, family), lora), 1.0))
    if config.preference is not None:
        parts.append((_simulate(lambda: _preferred(config, family), lora), 1.0))
    if config.region is not None:
        parts += [(drawn, float(steps)), (_simulate(lambda: _decoded(config, family, detector)), 1.0)]
    weights = stored_weights(family, config.offload, bits) + size_of_weights(detector)
    # DiffusionNFT's old policy, the weights as given and those that make room for either.
    copies = 3 * 4 if config.nft is not None else 0
    weights += (OPTIMIZER + copies) * sum(weight.numel() for weight in lora.values())
    return Estimate(
        weights_bytes=weights,
        activations_bytes=max((part.peak for part, _ in parts), default=0),
        flops=config.accumulation * sum(part.flops * times for part, times in parts),
        calls=int(config.accumulation * sum(part.calls * times for part, times in parts)),
        saved_bytes=max((part.saved for part, _ in parts), default=0),
    )


@dataclass(frozen=True)
class _Part:
    peak: int
    flops: float
    calls: int
    saved: int

    def beside(self, other: "_Part") -> "_Part":
        """With what stays in memory beside it."""
        return replace(self, peak=self.peak + other.peak)


def _forward_process(
    config: TreatmentConfig, nft: NftConfig, family: GeneratorFamily, detector: Any, lora: Any
) -> list[tuple[_Part, float]]:
    """DiffusionNFT's parts with how often an update has them: images drawn and judged without a graph, then
    one prediction each by the old, the given and the trained weights."""
    at_once = 1 if config.checkpointing else config.batch
    piece = config.model_copy(update={"batch": at_once})
    pieces = config.batch // at_once
    # What the pieces are cut from stays on the device beside them: noise, clean latents, another noise.
    kept = _Part(3 * _size(_noise(config, family)), 0.0, 0, 0)
    drawn = _simulate(lambda: _forward(piece, family)).beside(kept)
    judged = _simulate(lambda: _decoded(piece, family, detector)).beside(kept)
    predicted = _simulate(lambda: _predicted(piece, nft, family), lora).beside(kept)
    frozen = (2 if nft.kl or config.norm is not None else 1) * nft.times
    return [
        (drawn, float(pieces * (config.sampling.steps + frozen))),
        (judged, float(pieces)),
        (predicted, float(pieces * nft.times)),
    ]


def _predicted(config: TreatmentConfig, nft: NftConfig, family: GeneratorFamily) -> Tensor:
    clean, rng = _noise(config, family), torch.Generator()
    conditioning = family.blank_conditioning(len(clean))
    noise, old, reference = (torch.empty_like(clean) for _ in range(3))
    with real():
        times = family.random_times(len(clean), rng)
        alpha, sigma = family.levels(times)
    latents = add_noise(clean, noise, alpha, sigma)
    with _offloading() if "activations" in config.offload else nullcontext():
        with autocast(clean.device, config.sampling.precision):
            output = family.predict(latents, times.to(clean.device), conditioning, family.training_guidance)
        output = output.float()
        good = torch.empty_like(clean[:, :1])
        target = training_target(family.prediction, clean, noise)
        loss = nft_loss(output, old, target, sigma, good, nft.beta, nft.adaptive).mean()
        return loss + (output - reference).pow(2).mean() if nft.kl else loss


def training_step(detector: DetectorConfig, batch: int) -> Estimate:
    """Simulate one update of a detector's training: weights, two moments and the average, float32."""
    from dataengine.diagnosis.detector import NetworkDetector

    with fake_tensors():
        network = NetworkDetector.fresh(detector).requires_grad_(True)
        weights = dict(network.named_parameters())
        images = torch.empty(batch, 3, detector.size, detector.size)
        played = _simulate(lambda: network(images).square().mean(), weights)
        return Estimate(
            weights_bytes=4 * size_of_weights(network),
            activations_bytes=played.peak,
            flops=played.flops,
            calls=played.calls,
            saved_bytes=played.saved,
        )


def _simulate(action: Callable[[], Tensor], lora: Any = None) -> _Part:
    """Count the operations of `action`; with `lora`, its scalar result is back-propagated."""
    with Ledger() as ledger, torch.set_grad_enabled(lora is not None):
        result = action()
        saved = ledger.alive
        if lora is not None:
            result.backward()
    # Gradients are counted with the optimizer.
    for weight in (lora or {}).values():
        weight.grad = None
    return _Part(ledger.peak, float(ledger.flops), ledger.calls, saved)


def _noise(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    return family.initial_latents([0] * config.batch, size_of(family, config.sampling))


def simulate(action: Callable[[], Tensor]) -> int:
    """Peak bytes of `action` without gradient."""
    return _simulate(action).peak


def simulate_chain(config: TreatmentConfig, family: GeneratorFamily, latents: Tensor, steps: int) -> Tensor:
    """The last latents of a chain of so many steps, on fake tensors."""
    conditioning = family.blank_conditioning(len(latents))
    with real():
        schedule = family.schedule(max(steps, 2), torch.zeros(1, *latents.shape[1:]))
    guidance = guidance_of(family, config.sampling)
    for step in range(steps):
        latents = denoise(
            family, latents, conditioning, schedule, step, guidance, config.sampling.precision
        ).latents
    return latents


def _forward(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    return simulate_chain(config, family, _noise(config, family), 1)


def _treated(config: TreatmentConfig, family: GeneratorFamily, detector: Any, tracked: int) -> Tensor:
    with _offloading() if "activations" in config.offload else nullcontext():
        images = family.decode(simulate_chain(config, family, _noise(config, family), tracked))
        return all_pixels(confidence_maps(detector, images, config.checkpointing))


def _decoded(config: TreatmentConfig, family: GeneratorFamily, detector: Any) -> Tensor:
    return all_pixels(detector.confidence(family.decode(_noise(config, family))))


def _regularised(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    assert config.offline is not None
    latents, rng = _noise(config, family), torch.Generator()
    conditioning = family.blank_conditioning(len(latents))
    with _offloading() if "activations" in config.offload else nullcontext():
        return offline_loss(family, latents, conditioning, config.offline, rng, config.sampling.precision)


def _preferred(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    assert config.preference is not None
    latents, rng = _noise(config, family), torch.Generator()
    pairs = PairBatch(
        winners=latents,
        losers=latents,
        cells=torch.ones_like(latents[:, 0]),
        conditioning=family.blank_conditioning(len(latents)),
    )
    # Training times do not change what is allocated.
    settings = config.preference.model_copy(update={"times": "uniform"})
    with _offloading() if "activations" in config.offload else nullcontext():
        return localized_preference(family, pairs, settings, config.sampling, nullcontext, rng)


def _offloading() -> Any:
    """Saved tensors are offloaded from the device and reloaded."""
    return torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (tensor.shape, tensor.dtype),
        lambda descriptor: torch.empty(descriptor[0], dtype=descriptor[1]),
    )


def stored_weights(family: GeneratorFamily, offload: Collection[str], bits: int | None) -> int:
    """Bytes of the generator's own weights on the device; "text" in `offload` leaves the text encoders
    out."""
    total = 0
    for name, network in family.modules().items():
        if name.startswith("text_encoder") and "text" in offload:
            continue
        small = bits is not None and name in ("transformer", "unet")
        for key, weight in network.named_parameters():
            if "lora_" not in key:
                quantised = small and weight.ndim == 2
                total += _quantised(weight, bits or 0) if quantised else _size(weight)
    return total


def _quantised(weight: Tensor, bits: int) -> int:
    """Bytes of a quantised matrix, with a float32 scale per 64 values, or per row."""
    scales = weight.numel() // NF4_BLOCK if bits == 4 else len(weight)
    return weight.numel() * bits // 8 + 4 * scales


def size_of_weights(network: Any) -> int:
    """Bytes of a network's parameters."""
    return sum(_size(weight) for weight in network.parameters())


def _size(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Context in which tensors have shapes and no data; attention counts as fused, as devices compute it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Everything is created on its device; peft tries to move modules, which fails with fake weights.
    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (F, "scaled_dot_product_attention", _fused),
        (nn.Module, "to", lambda module, *args, **kwargs: module),
    ]
    stock = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, replacement in changes:
        setattr(owner, name, replacement)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for (owner, name, _), original in zip(changes, stock, strict=True):
            setattr(owner, name, original)


def real() -> Any:
    """Schedules are computed with real tensors: only their values matter, not their cost."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    return unset_fake_temporarily()


def _fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, **kwargs: Any
) -> Tensor:
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    # A mask is kept for backward, and one of truth values is turned into numbers first.
    bias = attn_mask if attn_mask.is_floating_point() else torch.zeros_like(attn_mask, dtype=query.dtype)
    bias = bias.expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]


def measure_rates(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Rates:
    """Matrix-product rate and overhead per call of a device, measured in well under a second."""
    # A matrix size that suits a CPU is too small to measure a GPU.
    side = 1024 if torch.device(device).type == "cpu" else 8192
    square = torch.randn(side, side, device=device, dtype=dtype)
    small = torch.zeros(8, device=device)
    product = min(_timed(lambda: square @ square, device) for _ in range(5))
    call = min(_timed(lambda: [small + small for _ in range(1000)], device) for _ in range(3)) / 1000
    return Rates(flops_per_s=2 * side**3 / product, seconds_per_call=call)


def _timed(action: Callable[[], Any], device: str | torch.device) -> float:
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def stored_bits(generator: Path | GeneratorFamily, bits: int | None) -> int | None:
    """Bits of a loaded generator's denoiser, as marked by diffusers; else the requested ones."""
    if isinstance(generator, Path):
        return bits
    networks = generator.modules().values()
    sizes = [size for size in (4, 8) for net in networks if getattr(net, f"is_loaded_in_{size}bit", False)]
    return sizes[0] if sizes else bits


class NoDetector:
    """A detector without cost."""

    def confidence(self, images: Tensor) -> Tensor:
        return images.mean(1)

    def parameters(self) -> list[nn.Parameter]:
        return []
