"""What `make bench-treatment-gpu` measures: FLUX.1-schnell's true dimensions with random weights on one GPU.

Twelve billion normal numbers in bfloat16 stand for the transformer, a float32 VAE, a SegFormer-b5 at 512²
as detector; or the same in small, to prove on the CPU that the script works.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from dataengine.diagnosis.config import DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.treatment.config import LoraSettings, Precision, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.flux import FluxFamily
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.sampling.sampler import autocast
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.estimate import (
    Estimate,
    Ledger,
    estimate,
    fake_tensors,
    measure_rates,
)
from dataengine.treatment.tuning.weightless import network_without_weights
from tests.bench.harness import Figure, bootstrap, figure, seconds

GIGABYTE, TERA = 1e9, 1e12
SPREAD = 0.02
"""Deviation of the random weights: what a linear layer of 3,072 inputs keeps its scale with."""
WARM_UP, UPDATES = 2, 7
RATE = "product_rate"
PARTS = ("transformer", "vae")

FLUX = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""FLUX.1-schnell's true dimensions."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """How large the networks are, and the images by the name of their plan."""

    flux: dict[str, Any]
    vae: dict[str, Any]
    detector: DetectorConfig
    scale: int = 1
    """What sides are divided by."""


TRUE = Dimensions(flux=FLUX, vae=VAE, detector=DetectorConfig(size=512, segformer="b5"))  # type: ignore[arg-type]
TINY = Dimensions(
    flux=FLUX
    | {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1, "joint_attention_dim": 64}
    | {"pooled_projection_dim": 32},
    vae=VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    detector=DetectorConfig(
        size=64,
        segformer={"hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1] * 4, "depths": [1] * 4},
    ),
    scale=16,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to make an update."""

    name: str
    side: int
    bits: Bits | None = None
    precision: Precision = "float32"
    """Of autocast; without it the transformer computes in its own bfloat16, and LoRA in float32."""
    card: int = 48
    """Gigabytes that it should fit into."""

    @property
    def told(self) -> str:
        """For people."""
        base = f"{self.bits}-bit base" if self.bits else "bf16"
        return f"{self.side}², {base}{', autocast' if self.precision == 'bfloat16' else ''}"


PLANS = (
    Plan(name="flux_512", side=512),
    Plan(name="flux_1024", side=1024),
    Plan(name="flux_1024_autocast", side=1024, precision="bfloat16"),
    Plan(name="flux_1024_4bit", side=1024, bits=4, card=24),
)


def settings(plan: Plan, dimensions: Dimensions = TRUE) -> TreatmentConfig:
    """Batch 1, K = 1 of T = 5, LoRA 16, checkpointing, no regularisation, text encoders away."""
    side = plan.side // dimensions.scale
    return TreatmentConfig(
        batch=1,
        grad_steps=1,
        sampling=SamplingConfig(steps=5, height=side, width=side, precision=plan.precision),
        checkpointing=True,
        offload=("text",),
        offline=None,
        lora=LoraSettings(rank=16),
    )


class Wordless(FluxFamily):
    """FLUX without text encoders: prompts are random numbers of the right shapes."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """See `GeneratorFamily`."""
        blank = self.blank_conditioning(len(prompts)).tensors
        return Conditioning({name: torch.randn_like(tensor) for name, tensor in blank.items()})


def outline(dimensions: Dimensions = TRUE) -> FluxFamily:
    """Networks without weights on the device at hand (`fake_tensors()`, or "meta"), float32 VAE included."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    parts = {
        "transformer": network_without_weights(FluxTransformer2DModel, dimensions.flux, torch.bfloat16),
        "vae": network_without_weights(AutoencoderKL, dimensions.vae, torch.float32),
        "text_encoder": nn.Module(),
        "text_encoder_2": nn.Module(),
        "tokenizer_2": SimpleNamespace(model_max_length=512),
    }
    with unset_fake_temporarily(), torch.device("cpu"):
        scheduler = FlowMatchEulerDiscreteScheduler()
    return Wordless(SimpleNamespace(**parts, scheduler=scheduler))


def generator(
    dimensions: Dimensions, device: torch.device, bits: Bits | None, parts: Sequence[str] = PARTS
) -> FluxFamily:
    """The same with random weights on `device`, the transformer's quantised as by `load_family`. Parts that
    are not named stay without."""
    with torch.device("meta"):
        family = outline(dimensions)
    if "transformer" in parts:
        filled(family.pipeline.transformer, device, quantizer("transformer", bits))
    if "vae" in parts:
        filled(family.pipeline.vae, device)
    for network in (family.pipeline.transformer, family.pipeline.vae):
        network.requires_grad_(False)
    return family


def quantizer(denoiser: str, bits: Bits | None) -> Any:
    """What diffusers stores weights with that it reads from a file."""
    from diffusers.quantizers import DiffusersAutoQuantizer

    options = loading_options(denoiser, bits, torch.bfloat16)
    if not options:
        return None
    wanted = options["quantization_config"]._resolve_quant_config(is_diffusers=True, module_name=denoiser)
    return DiffusersAutoQuantizer.from_config(wanted, pre_quantized=False)


def filled(network: Any, device: torch.device, store: Any = None) -> None:
    """Give a network on "meta" weights: ones for the norms, normal numbers for the rest, tensor by tensor."""
    from accelerate.utils import set_module_tensor_to_device

    if list(network.buffers()):
        raise ValueError(f"{type(network).__name__} has buffers, which are not drawn")
    shapes = {name: (weight.shape, weight.dtype) for name, weight in network.named_parameters()}
    if store is not None:
        store.preprocess_model(model=network, device_map={"": device}, keep_in_fp32_modules=[])
    for name, (shape, dtype) in shapes.items():
        value = torch.ones(shape, device=device, dtype=dtype)
        if len(shape) > 1 or name.endswith("bias"):
            value.normal_(std=SPREAD)
        if store is not None and store.check_if_quantized_param(network, value, name, {}):
            store.create_quantized_param(network, value, name, device, {})
        else:
            set_module_tensor_to_device(network, name, device, value=value, dtype=dtype)
    if store is not None:
        store.postprocess_model(network)


def predicted(plan: Plan, dimensions: Dimensions = TRUE) -> Estimate:
    """The preflight's estimate of the plan, including a detector of its size."""
    with fake_tensors():
        detector = NetworkDetector.fresh(dimensions.detector).eval().requires_grad_(False)
        return estimate(settings(plan, dimensions), outline(dimensions), detector, plan.bits)


class Subject:
    """A generator with a LoRA and its detector, both initialised at random on a device."""

    def __init__(self, dimensions: Dimensions, device: torch.device, bits: Bits | None) -> None:
        torch.manual_seed(0)
        self.dimensions, self.device, self.bits = dimensions, device, bits
        self.family = generator(dimensions, device, bits)
        self.family.adapter.add(LoraSettings(rank=16), seed=0)
        self.family.use_checkpointing()
        self.weights = list(self.family.adapter.parameters().values())
        self.detector = NetworkDetector.fresh(dimensions.detector).eval().requires_grad_(False).to(device)

    def update(self, plan: Plan) -> Callable[[], None]:
        """An update of the LoRA as `tuning.treat` makes it, until the device has done it."""
        batches = Batches(settings(plan, self.dimensions), self.family, self.detector, ["x"], lambda: None)
        optimizer = torch.optim.AdamW(self.weights, lr=1e-4)
        rng = torch.Generator().manual_seed(0)

        def run() -> None:
            optimizer.zero_grad()
            torch.stack(list(batches.terms(0, rng).values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            optimizer.step()
            synchronise(self.device)

        return run

    @torch.no_grad()
    def forward(self, plan: Plan) -> Callable[[], None]:
        """The transformer alone, once."""
        side = plan.side // self.dimensions.scale
        latents = self.family.initial_latents([0], (side, side))
        times, prompts = torch.tensor([0.5], device=self.device), self.family.encode_prompts(["x"])

        @torch.no_grad()
        def run() -> None:
            with autocast(self.device, plan.precision):
                self.family.predict(latents, times, prompts, 0.0)
            synchronise(self.device)

        return run

    def learns(self) -> bool:
        """Whether the last update's gradients are numbers and reached every matrix.

        Before the first update the second matrices are zero and stop the gradient of the first ones.
        """
        norms = torch.stack([torch.as_tensor(0.0 if w.grad is None else w.grad.norm()) for w in self.weights])
        return bool(torch.isfinite(norms).all() and (norms > 0).all())


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(id: str, action: Callable[[], None], times: int, note: str) -> Figure:
    """The median of several calls with its bootstrap interval."""
    spent = [seconds(action) for _ in range(times)]
    middle = lambda drawn: float(np.median(drawn))  # noqa: E731
    return figure(id, middle(spent), bootstrap(spent, middle), "s", times, note)


def measured(subject: Subject, plan: Plan, rate: float | None) -> Iterator[Figure]:
    """Peak memory and step time, and what share of the card's products the transformer alone reaches."""
    name, update, forward = plan.name, subject.update(plan), subject.forward(plan)
    for _ in range(WARM_UP):
        update()
    yield figure(f"{name}_gradients_reach", subject.learns(), note="finite, and not zero in any LoRA matrix")
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield timed(f"{name}_step_s", update, UPDATES, f"{plan.told}, random weights, without regularisation")
    if subject.device.type == "cuda":
        yield from memory(plan)
    forward()
    once = timed(f"{name}_forward_s", forward, UPDATES, "the transformer alone, once")
    yield once
    # bitsandbytes' own products are not seen.
    if rate is not None and not plan.bits:
        with Ledger() as ledger:
            forward()
        yield share(f"{name}_forward_rate_share", ledger.flops, float(once.value), rate)


def share(id: str, operations: float, spent: float, rate: float) -> Figure:
    """How much of the rate, in TFLOP/s, so many operations in that time are."""
    done = operations / spent / TERA
    note = f"{operations / TERA:.4g} TFLOP, {done:.4g} TFLOP/s of the card's {rate:.4g} in bf16 products"
    return figure(id, done / rate, unit="share", note=note)


def memory(plan: Plan) -> Iterator[Figure]:
    """What the allocator gave out at once, and what it took from the card for it."""
    given, taken = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    yield figure(f"{plan.name}_peak_gb", given / GIGABYTE, unit="GB", note="allocated")
    yield figure(f"{plan.name}_reserved_gb", taken / GIGABYTE, unit="GB", note="the allocator's share too")
    yield figure(f"{plan.name}_fits", taken < plan.card * GIGABYTE, note=f"a card of {plan.card} GB")


def foretold(plan: Plan, told: Estimate) -> Iterator[Figure]:
    """The estimated peak, and the operations of an update."""
    note = f"PREDICTED by the estimator, {plan.told}, batch 1, LoRA 16, checkpointing, {told.text()}"
    size, target = told.peak_bytes / GIGABYTE, f"target a card of {plan.card} GB"
    yield figure(f"{plan.name}_predicted_peak_gb", size, unit="GB", note=f"{note}; {target}")
    yield figure(f"{plan.name}_predicted_tflop", told.flops / TERA, unit="TFLOP", note="of an update")


def compared(plan: Plan, known: Mapping[str, Any]) -> Iterator[Figure]:
    """The estimated peak over the measured one, and an update's rate over that of the card's products."""
    names = ("predicted_peak_gb", "predicted_tflop", "peak_gb", "step_s")
    size, operations, peak, spent = (known.get(f"{plan.name}_{name}") for name in names)
    rate = known.get(RATE)
    if size is not None and peak is not None:
        yield figure(f"{plan.name}_predicted_over_peak", size / peak, unit="ratio", note="over allocated")
    if operations is not None and spent is not None and rate is not None:
        yield share(f"{plan.name}_rate_share", operations * TERA, spent, rate)


def described(device: torch.device) -> str:
    """What was measured on."""
    if device.type != "cuda":
        return f"{device.type}, torch {torch.__version__}"
    size = torch.cuda.get_device_properties(device).total_memory / GIGABYTE
    return f"{torch.cuda.get_device_name(device)}, {size:.1f} GB, torch {torch.__version__}"


def products(device: torch.device) -> Iterator[Figure]:
    """The rate that shares are of."""
    rate = measure_rates(device, torch.bfloat16).flops_per_s
    yield figure(RATE, rate / TERA, unit="TFLOP/s", note="bf16 matrix products")
