"""`make bench-treatment-speed`: an update of treatment against its parts and against the full chain.

One thread, the clinic's tiny FLUX and first detector. Bytes are counted tensor by tensor, so that they do not
depend on the machine. The cost of FLUX.1-schnell's true dimensions with a SegFormer-b5 is the estimator's
prediction and says so; `make bench-treatment-gpu` measures it where a GPU is at hand.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.world import prompts
from dataengine.diagnosis.detector import load_detector
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.objectives.pixel import all_pixels
from dataengine.treatment.sampling.sampler import denoise, guidance_of
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.estimate import Ledger, Rates, measure_rates, preflight
from tests.bench.gpu_networks import PLANS, predicted
from tests.bench.harness import Figure, bootstrap, figure, quick, seconds, table, timing_ratio, write

PAIRS = 2 if quick() else 9
STEPS, LONG = 5, 50
BATCH = 2 if quick() else 4
GIGABYTE = 1e9
SUSTAINED = 1e14
"""Operations a second that predictions assume of a card: a third of what cards with 48 GB promise."""


class Bench:
    """A tiny generator with LoRA, a detector, and updates of one batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = clinic_parts.materialise("flux", folder / "flux")
        self.detector = load_detector(clinic_parts.materialise("first_doctor", folder / "first_doctor"))
        self.texts = [prompt.text for prompt in prompts("treatment", 8)]

    def update(self, steps: int, tracked: int, checkpointing: bool = False) -> Callable[[], None]:
        """An update of the weights as `tuning.treat` makes it."""
        config = settings(steps, tracked).model_copy(update={"checkpointing": checkpointing})
        family, optimizer = self._ready(checkpointing)
        batches = Batches(config, family, self.detector, self.texts, lambda: None)
        weights_ = list(family.adapter.parameters().values())

        def run() -> None:
            optimizer.zero_grad()
            torch.stack(list(batches.terms(0, torch.Generator().manual_seed(0)).values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(weights_, 1.0)
            optimizer.step()

        return run

    def parts(self, steps: int, tracked: int) -> Callable[..., float]:
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

        def run(clock: Callable[[], float] = perf_counter) -> float:
            spent, made = 0.0, {}

            def timed(name: str, action: Callable[[], Any]) -> Any:
                nonlocal spent
                spent += elapsed(lambda: made.__setitem__(name, action()), clock)
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


def update_over_parts(bench: Bench) -> list[Figure]:
    """One update against the sum of its parts, interleaved; what the processor spent does not feel others."""
    update, parts = bench.update(STEPS, 1), bench.parts(STEPS, 1)
    update(), parts()
    note = "T = 5, K = 1, including noise sampling and prompt selection; goal ≤ 1.05"
    figures = []
    for id, clock in (("update_over_parts", perf_counter), ("update_over_parts_cpu", process_time)):
        ratios = []
        for pair in range(PAIRS):
            if pair % 2:
                spent = parts(clock)
                ratios.append(elapsed(update, clock) / spent)
            else:
                whole = elapsed(update, clock)
                ratios.append(whole / parts(clock))
        middle = lambda drawn: float(np.median(drawn))  # noqa: E731
        figures.append(figure(id, middle(ratios), bootstrap(ratios, middle), "ratio", PAIRS, note))
    return figures


def elapsed(action: Callable[[], object], clock: Callable[[], float]) -> float:
    """The measured duration of one call."""
    started = clock()
    action()
    return clock() - started


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
    """Peak bytes of live tensors, excluding weights."""
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
    note = f"{less / 1e6:.1f} against {more / 1e6:.1f} MB of tensors, excluding weights; goal ≤ 0.6"
    return [speed, figure("memory_over_full_chain", less / more, unit="ratio", note=note)]


def estimator_figures(bench: Bench) -> list[Figure]:
    """The preflight's estimate against what an update really takes."""
    config = settings(STEPS, 1).model_copy(update={"lora": LoraSettings(targets="all")})
    found = preflight(config, bench.folder, bench.detector)
    update = bench.update(STEPS, 1)
    real = peak(update)
    spent = min(seconds(update) for _ in range(3))
    predicted = found.seconds(measure_rates())
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


def predictions() -> list[Figure]:
    """Estimates of the plans that `make bench-treatment-gpu` measures."""
    figures = []
    for plan in PLANS[:1] if quick() else PLANS:
        found = predicted(plan)
        note = f"PREDICTED by the estimator, {plan.told}, batch 1, LoRA 16, checkpointing, {found.text()}"
        target = f"target a card of {plan.card} GB"
        size, spent = found.peak_bytes / GIGABYTE, found.seconds(Rates(flops_per_s=SUSTAINED))
        figures.append(figure(f"{plan.name}_peak_gb", size, unit="GB", note=f"{note}; {target}"))
        note = f"PREDICTED, at {SUSTAINED / 1e12:.0f} TFLOP/s sustained, no regularisation"
        figures.append(figure(f"{plan.name}_step_s", spent, unit="s", note=note))
    return figures


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        figures: list[Figure] = []
        for part in (update_over_parts, memory_figures, full_chain_figures, estimator_figures):
            figures += part(bench)
            print(table(figures), flush=True)
        figures += predictions()
    write("treatment_speed", figures, seeds=[0])


if __name__ == "__main__":
    main()
