"""`make bench-treatment-speed`: an update of treatment against its parts and against the full chain.

One thread, the clinic's tiny FLUX and first doctor. Bytes are counted tensor by tensor, so that they do not
depend on the machine. The cost of FLUX.1-schnell's true dimensions with a SegFormer-b5 is measured with
random weights where a GPU is at hand, else it is the estimator's prediction and says so.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.clinic import weights
from dataengine.clinic.world import prompts
from dataengine.diagnosis.config import MIT, DetectorConfig
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.treatment.batches import Batches
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.estimate import (
    Estimate,
    Ledger,
    Rates,
    estimate,
    faked,
    measured_rates,
    preflight,
    unweighted,
)
from dataengine.treatment.flux import FluxFamily
from dataengine.treatment.loading import load_family
from dataengine.treatment.objectives import all_pixels
from dataengine.treatment.sampling import denoise, guidance_of
from tests.bench.harness import Figure, bootstrap, figure, quick, seconds, table, timing_ratio, write

PAIRS = 2 if quick() else 9
STEPS, LONG = 5, 50
BATCH = 2 if quick() else 4
GIGABYTE = 1e9
SUSTAINED = 1e14
"""Operations a second that predictions assume of a card: a third of what cards with 48 GB promise."""
LORA_16 = LoraSettings(rank=16)

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


class Bench:
    """A tiny generator with LoRA, a detector, and updates of one batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = weights.materialise("flux", folder / "flux")
        self.detector = load_detector(weights.materialise("first_doctor", folder / "first_doctor"))
        self.texts = [prompt.text for prompt in prompts("treatment", 8)]

    def update(self, steps: int, tracked: int, checkpointing: bool = False) -> Callable[[], None]:
        """An update of the weights as `tuning.treat` makes it."""
        config = settings(steps, tracked)
        family, optimizer = self._ready(checkpointing)
        batches = Batches(config, family, self.detector, self.texts, lambda: None)
        weights_ = list(family.adapter.parameters().values())

        def run() -> None:
            optimizer.zero_grad()
            torch.stack(list(batches.terms(torch.Generator().manual_seed(0)).values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(weights_, 1.0)
            optimizer.step()

        return run

    def parts(self, steps: int, tracked: int) -> Callable[[], float]:
        """The same work in pieces that know nothing of each other; the seconds of all of them together."""
        config = settings(steps, tracked)
        family, optimizer = self._ready(False)
        conditioning = family.encode_prompts((self.texts * BATCH)[:BATCH])
        noise = family.initial_latents(list(range(BATCH)), family.size)
        schedule = family.schedule(steps, noise)
        guidance = guidance_of(family, config.sampling)
        matrices = list(family.adapter.parameters().values())

        def chain(latents: Tensor, first: int, last: int) -> Tensor:
            for step in range(first, last):
                latents = denoise(family, latents, conditioning, schedule, step, guidance).latents
            return latents

        def run() -> float:
            spent, made = 0.0, {}

            def timed(name: str, action: Callable[[], Any]) -> Any:
                nonlocal spent
                spent += seconds(lambda: made.__setitem__(name, action()))
                return made[name]

            optimizer.zero_grad()
            with torch.no_grad():
                start = timed("forwards", lambda: chain(noise, 0, steps - tracked))
            clean = timed("tracked", lambda: chain(start, steps - tracked, steps))
            latents = clean.detach().requires_grad_()
            decoded = timed("decode", lambda: family.decode(latents))
            images = decoded.detach().requires_grad_()
            loss = timed("detector", lambda: all_pixels(self.detector.confidence(images)))
            timed("detector's backward", loss.backward)
            timed("decode's backward", lambda: decoded.backward(images.grad))
            timed("backward", lambda: clean.backward(latents.grad))
            timed("clip", lambda: torch.nn.utils.clip_grad_norm_(matrices, 1.0))
            timed("optimizer", optimizer.step)
            return spent

        return run

    def _ready(self, checkpointing: bool) -> tuple[Any, torch.optim.Optimizer]:
        family = load_family(self.folder)
        family.adapter.add(LoraSettings(targets="all"), seed=0)
        if checkpointing:
            family.use_checkpointing()
        return family, torch.optim.AdamW(family.adapter.parameters().values(), lr=1e-4)


def settings(steps: int, tracked: int) -> TreatmentConfig:
    return TreatmentConfig(
        batch=BATCH, grad_steps=tracked, offline=None, sampling=SamplingConfig(steps=steps)
    )


# ---- ratios ------------------------------------------------------------------------------------------------


def update_over_parts(bench: Bench) -> list[Figure]:
    """One update against the sum of its parts, interleaved."""
    update, parts = bench.update(STEPS, 1), bench.parts(STEPS, 1)
    update(), parts()
    ratios = []
    for pair in range(PAIRS):
        if pair % 2:
            spent = parts()
            ratios.append(seconds(update) / spent)
        else:
            whole = seconds(update)
            ratios.append(whole / parts())
    middle = lambda drawn: float(np.median(drawn))  # noqa: E731
    note = "T = 5, K = 1, drawing the noise and picking prompts included; goal ≤ 1.05"
    return [figure("update_over_parts", middle(ratios), bootstrap(ratios, middle), "ratio", PAIRS, note)]


def saved(update: Callable[[], None]) -> int:
    """Bytes that an update keeps for backward, every storage once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        update()
    return sum(sizes.values())


def peak(update: Callable[[], None]) -> int:
    """Bytes that are alive at once beside weights, at most."""
    with Ledger() as ledger:
        update()
    return ledger.peak


def memory_figures(bench: Bench) -> list[Figure]:
    """Steps cost no memory."""
    short, long = (saved(bench.update(steps, 1)) for steps in (STEPS, LONG))
    return [
        figure(
            "saved_t50_over_t5",
            long / short,
            unit="ratio",
            note=f"{long / 1e6:.1f} MB at 50 steps, {short / 1e6:.1f} MB at 5, K = 1; goal ≤ 1.05",
        )
    ]


def full_chain_figures(bench: Bench) -> list[Figure]:
    """Truncation against back-propagation through every step; both recompute activations."""
    truncated, full = (bench.update(10, tracked, checkpointing=True) for tracked in (1, 10))
    speed = timing_ratio(
        "speedup_over_full_chain", full, truncated, PAIRS, "T = 10, K = 1, checkpointing; goal ≥ 2"
    )
    less, more = peak(truncated), peak(full)
    note = f"{less / 1e6:.1f} against {more / 1e6:.1f} MB of tensors beside weights; goal ≤ 0.6"
    return [speed, figure("memory_over_full_chain", less / more, unit="ratio", note=note)]


def estimator_figures(bench: Bench) -> list[Figure]:
    """The preflight's estimate against what an update really takes."""
    config = settings(STEPS, 1).model_copy(update={"lora": LoraSettings(targets="all")})
    found = preflight(config, bench.folder, bench.detector)
    update = bench.update(STEPS, 1)
    real = peak(update)
    spent = min(seconds(update) for _ in range(3))
    predicted = found.seconds(measured_rates())
    return [
        figure(
            "estimated_memory_ratio",
            found.activations_bytes / real,
            unit="ratio",
            note="tensors beside weights",
        ),
        figure(
            "estimated_time_ratio",
            predicted / spent,
            unit="ratio",
            note=f"{predicted:.2f} s estimated, {spent:.2f} s measured; small matrices run below the rate",
        ),
    ]


# ---- FLUX.1-schnell's dimensions ---------------------------------------------------------------------------


def true_size(side: int, bits: int | None = None) -> tuple[TreatmentConfig, int | None]:
    config = TreatmentConfig(
        batch=1,
        grad_steps=1,
        sampling=SamplingConfig(steps=5, height=side, width=side),
        checkpointing=True,
        offload=("text",),
        offline=None,
        lora=LORA_16,
    )
    return config, bits


def flux_schnell() -> FluxFamily:
    """FLUX.1-schnell's networks with random weights, bf16 with a float32 VAE, without text encoders."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    parts = {
        "transformer": unweighted(FluxTransformer2DModel, FLUX, torch.bfloat16),
        "vae": unweighted(AutoencoderKL, VAE, torch.float32),
        "text_encoder": nn.Module(),
        "text_encoder_2": nn.Module(),
        "tokenizer_2": SimpleNamespace(model_max_length=512),
    }
    with real():
        scheduler = FlowMatchEulerDiscreteScheduler()
    return FluxFamily(SimpleNamespace(**parts, scheduler=scheduler))


@contextmanager
def real() -> Iterator[None]:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


def segformer_b5() -> NetworkDetector:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = DetectorConfig(size=512)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=1, **MIT["b5"]))
    return NetworkDetector(config, network).eval().requires_grad_(False)


def predicted(side: int, bits: int | None = None) -> Estimate:
    config, bits = true_size(side, bits)
    with faked():
        return estimate(config, flux_schnell(), segformer_b5(), bits)


def predictions() -> list[Figure]:
    figures = []
    plans = ((512, None, 48), (1024, None, 48), (1024, 4, 24))
    for side, bits, card in plans[:1] if quick() else plans:
        found = predicted(side, bits)
        what = f"{side}² {'4-bit base' if bits else 'bf16'}"
        note = f"PREDICTED by the estimator, {what}, batch 1, LoRA 16, checkpointing, {found.text()}"
        figures.append(
            figure(
                f"flux_{side}{'_4bit' if bits else ''}_peak_gb",
                found.peak_bytes / GIGABYTE,
                unit="GB",
                note=f"{note}; target a card of {card} GB",
            )
        )
        if not bits:
            spent = found.seconds(Rates(flops_per_s=SUSTAINED))
            figures.append(
                figure(
                    f"flux_{side}_step_s",
                    spent,
                    unit="s",
                    note=f"PREDICTED, at {SUSTAINED / 1e12:.0f} TFLOP/s sustained, no regularisation",
                )
            )
    return figures


def measured_on_gpu() -> list[Figure]:
    """The same networks with random weights, for real."""
    figures, device = [], torch.device("cuda")
    rate = measured_rates(device, torch.bfloat16).flops_per_s
    for side in (512, 1024):
        config, _ = true_size(side)
        flops = predicted(side).flops
        with torch.device(device):
            family, detector = flux_schnell(), segformer_b5()
        family.adapter.add(config.lora, seed=0)
        family.use_checkpointing()
        optimizer = torch.optim.AdamW(family.adapter.parameters().values(), lr=1e-4)
        family.encode_prompts = lambda texts, it=family: it.blank(len(texts))  # type: ignore[method-assign]
        batches = Batches(config, family, detector, ["x"], lambda: None)

        def update(batches: Batches = batches, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            batches.terms(torch.Generator().manual_seed(0))["pixel"].backward()
            optimizer.step()
            torch.cuda.synchronize()

        update()
        torch.cuda.reset_peak_memory_stats()
        spent = min(seconds(update) for _ in range(3))
        note = f"measured on {torch.cuda.get_device_name()}, random weights, without regularisation"
        figures += [
            figure(
                f"flux_{side}_peak_gb", torch.cuda.max_memory_allocated() / GIGABYTE, unit="GB", note=note
            ),
            figure(f"flux_{side}_step_s", spent, unit="s", note=note),
            figure(
                f"flux_{side}_rate_share", flops / spent / rate, unit="share", note="of its matrix products"
            ),
        ]
        del family, detector, batches, optimizer
        torch.cuda.empty_cache()
    return figures


def main() -> None:
    torch.set_num_threads(1)
    large = measured_on_gpu if torch.cuda.is_available() else predictions
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        figures: list[Figure] = []
        for part in (update_over_parts, memory_figures, full_chain_figures, estimator_figures):
            figures += part(bench)
            print(table(figures), flush=True)
        figures += large()
    write("treatment_speed", figures, seeds=[0])


if __name__ == "__main__":
    main()
