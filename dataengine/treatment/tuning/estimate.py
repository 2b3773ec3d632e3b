"""Resource estimates before anything is loaded: peak memory and step time from configs alone.

One update is simulated with fake tensors, which have shapes and no data: every allocation, release and
multiplication is counted. Nothing is computed, so a model of twelve billion weights is simulated on a laptop.
Allocator fragmentation and driver memory are not included.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dataengine.diagnosis.config import DetectorConfig
from dataengine.treatment.config import TreatmentConfig
from dataengine.treatment.families.catalog import FAMILIES, FamilyFacts
from dataengine.treatment.families.components import IMPLEMENTATION, stock_facts
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.shapes import ShapesFamily, pipeline_of
from dataengine.treatment.families.stock import StockFamily
from dataengine.treatment.sampling.sampler import denoise, guidance_of, size_of
from dataengine.treatment.tuning.objectives import all_pixels, confidence_maps, offline_loss

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
    stored = _stored_bits(generator, bits)
    with fake_tensors():
        return estimate(config, family_without_weights(generator, dtype), detector or _NoDetector(), stored)


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
    steps, tracked = config.sampling.steps, 1 if config.truncation == "single" else config.grad_steps
    drawn = _simulate(lambda: _forward(config, family))
    treated = _simulate(lambda: _treated(config, family, detector, tracked), lora)
    parts = [(drawn, float(steps - tracked)), (treated, 1.0)]
    if config.offline is not None:
        parts.append((_simulate(lambda: _regularised(config, family), lora), 1.0))
    if config.region is not None:
        parts += [(drawn, float(steps)), (_simulate(lambda: _decoded(config, family, detector)), 1.0)]
    weights = _stored(family, config, bits) + _bytes(detector)
    weights += OPTIMIZER * sum(weight.numel() for weight in lora.values())
    return Estimate(
        weights_bytes=weights,
        activations_bytes=max(part.peak for part, _ in parts),
        flops=config.accumulation * sum(part.flops * times for part, times in parts),
        calls=int(config.accumulation * sum(part.calls * times for part, times in parts)),
        saved_bytes=treated.saved,
    )


def training_step(detector: DetectorConfig, batch: int) -> Estimate:
    """Simulate one update of a detector's training: weights, two moments and the average, float32."""
    from dataengine.diagnosis.detector import NetworkDetector

    with fake_tensors():
        network = NetworkDetector.fresh(detector).requires_grad_(True)
        weights = dict(network.named_parameters())
        images = torch.empty(batch, 3, detector.size, detector.size)
        played = _simulate(lambda: network(images).square().mean(), weights)
        return Estimate(
            weights_bytes=4 * _bytes(network),
            activations_bytes=played.peak,
            flops=played.flops,
            calls=played.calls,
            saved_bytes=played.saved,
        )


@dataclass(frozen=True)
class _Part:
    peak: int
    flops: float
    calls: int
    saved: int


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


def _chain(config: TreatmentConfig, family: GeneratorFamily, latents: Tensor, steps: int) -> Tensor:
    conditioning = family.blank_conditioning(len(latents))
    with _real():
        schedule = family.schedule(max(steps, 2), torch.zeros(1, *latents.shape[1:]))
    guidance = guidance_of(family, config.sampling)
    for step in range(steps):
        latents = denoise(
            family, latents, conditioning, schedule, step, guidance, config.sampling.precision
        ).latents
    return latents


def _forward(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    return _chain(config, family, _noise(config, family), 1)


def _treated(config: TreatmentConfig, family: GeneratorFamily, detector: Any, tracked: int) -> Tensor:
    with _offloading() if "activations" in config.offload else nullcontext():
        images = family.decode(_chain(config, family, _noise(config, family), tracked))
        return all_pixels(confidence_maps(detector, images, config.checkpointing))


def _decoded(config: TreatmentConfig, family: GeneratorFamily, detector: Any) -> Tensor:
    return all_pixels(detector.confidence(family.decode(_noise(config, family))))


def _regularised(config: TreatmentConfig, family: GeneratorFamily) -> Tensor:
    assert config.offline is not None
    latents, rng = _noise(config, family), torch.Generator()
    conditioning = family.blank_conditioning(len(latents))
    with _offloading() if "activations" in config.offload else nullcontext():
        return offline_loss(family, latents, conditioning, config.offline, rng, config.sampling.precision)


def _offloading() -> Any:
    """Saved tensors are offloaded from the device and reloaded."""
    return torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (tensor.shape, tensor.dtype),
        lambda descriptor: torch.empty(descriptor[0], dtype=descriptor[1]),
    )


def _stored(family: GeneratorFamily, config: TreatmentConfig, bits: int | None) -> int:
    """Bytes of the generator's own weights on the device."""
    total = 0
    for name, network in family.modules().items():
        if name.startswith("text_encoder") and "text" in config.offload:
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


def _bytes(network: Any) -> int:
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


def _real() -> Any:
    """Schedules are computed with real tensors: only their values matter, not their cost."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    return unset_fake_temporarily()


def _fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, **kwargs: Any
) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def family_without_weights(
    location: Path | GeneratorFamily, dtype: torch.dtype = torch.float32
) -> GeneratorFamily:
    """A generator without weights, from a pipeline folder or like a loaded one. Call within `fake_tensors()`.

    Raises `ModelRefused` for a folder that would not be loaded.
    """
    if isinstance(location, Path):
        facts, parts = _folder_parts(location, dtype)
    else:
        facts, parts = _live_parts(location)
    if facts.implementation == IMPLEMENTATION:
        return ShapesFamily(pipeline_of(facts.pipelines[0], parts))
    with _real():
        family: GeneratorFamily = facts.load()(SimpleNamespace(**parts))
    return family


def _folder_parts(folder: Path, dtype: torch.dtype) -> tuple[FamilyFacts, dict[str, Any]]:
    import diffusers
    import transformers

    from dataengine.treatment.families.loading import INDEX, check_pipeline, facts_of, read_index

    check_pipeline(folder)
    facts, (_, index) = facts_of(folder), read_index(folder / INDEX)
    # Settings of the pipeline itself stand beside its parts.
    parts: dict[str, Any] = {name: value for name, value in index.items() if not _is_part(name, value)}
    for name in facts.components:
        library, class_name = index[name]
        component_class = getattr(diffusers if library == "diffusers" else transformers, class_name)
        if name not in facts.networks:
            with _real():
                parts[name] = component_class.from_pretrained(folder / name)
            continue
        config = (
            component_class.load_config(folder / name)
            if library == "diffusers"
            else component_class.config_class.from_pretrained(folder / name)
        )
        parts[name] = network_without_weights(
            component_class, config, torch.float32 if name == "vae" else dtype
        )
    return facts, parts


def _live_parts(family: Any) -> tuple[FamilyFacts, dict[str, Any]]:
    if isinstance(family, StockFamily):
        return _live_stock_parts(family)
    facts = FAMILIES[family.name]
    parts = {name: getattr(family.pipeline, name) for name in facts.components}
    for name, network in family.modules().items():
        parts[name] = network_without_weights(type(network), network.config, network.dtype)
    return facts, parts


def _live_stock_parts(family: StockFamily) -> tuple[FamilyFacts, dict[str, Any]]:
    config, components = family.pipeline.config, family.pipeline.components
    index = {name: list(config[name]) for name in components if config.get(name)}
    parts = {name: value for name, value in config.items() if not _is_part(name, value)} | components
    networks: dict[str, Any] = dict(family.modules())
    for name, network in networks.items():
        parts[name] = network_without_weights(type(network), network.config, network.dtype)
    return stock_facts(family.kind, index, family.kind), parts


def _is_part(name: str, value: Any) -> bool:
    """Whether an entry of a pipeline's index is a component, [library, class], and no setting."""
    named = isinstance(value, (list, tuple)) and len(value) == 2
    return name.startswith("_") or (named and all(isinstance(each, str | None) for each in value))


def network_without_weights(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    """A diffusers or transformers network of that class and config, without weights, frozen."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network: nn.Module = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    finally:
        torch.set_default_dtype(before)
    return network.eval().requires_grad_(False)


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


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whichever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error)
    return "out of memory" in message or "can't allocate memory" in message


def advice(
    config: TreatmentConfig,
    generator: Path | GeneratorFamily,
    dtype: torch.dtype = torch.float32,
    bits: int | None = None,
) -> str:
    """Advice: settings that need less memory, with their estimated peaks, without the detector.

    `dtype` and `bits` are those of a folder's weights; a loaded generator's own are known.
    """
    fewer = "" if _stored_bits(generator, bits) == 4 else "; or a 4-bit base"
    halves = {"batch": max(1, config.batch // 2), "accumulation": 2 * config.accumulation}
    changes: dict[str, dict[str, Any]] = {
        "checkpointing": {"checkpointing": True},
        f"grad_steps {1}": {"grad_steps": 1},
        f"batch {halves['batch']} with accumulation {halves['accumulation']}": halves,
        "offloading text and activations": {"offload": ("text", "activations")},
    }
    try:
        now = preflight(config, generator, None, dtype, bits).peak_bytes
        peaks = {
            name: preflight(config.model_copy(update=change), generator, None, dtype, bits).peak_bytes
            for name, change in changes.items()
        }
    except Exception:  # a failed estimate must not hide the original error
        return f"Settings that need less memory: {'; '.join(changes)}{fewer}."
    less = [f"{name} ({size / GIGABYTE:.2f} GB)" for name, size in peaks.items() if size < now]
    return (
        f"Estimated need without the detector: {now / GIGABYTE:.2f} GB. Settings that need less: "
        f"{'; '.join(less)}{fewer}."
    )


def _stored_bits(generator: Path | GeneratorFamily, bits: int | None) -> int | None:
    """Bits of a loaded generator's denoiser, as marked by diffusers; else the requested ones."""
    if isinstance(generator, Path):
        return bits
    networks = generator.modules().values()
    sizes = [size for size in (4, 8) for net in networks if getattr(net, f"is_loaded_in_{size}bit", False)]
    return sizes[0] if sizes else bits


class _NoDetector:
    """A detector without cost."""

    def confidence(self, images: Tensor) -> Tensor:
        return images.mean(1)

    def parameters(self) -> list[nn.Parameter]:
        return []
