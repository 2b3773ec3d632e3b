"""Treatment: LoRA fine-tuning of a generator against a frozen detector (DiffDoctor, Algorithm 1).

Back-propagation ends at the truncation, the end of the run and its checkpoint are chosen by measurement
(`quality.guard`), and the defaults are the embedded clinic's. `presets.diffdoctor` has the published
settings; docs/published.md lists all differences from the paper and its authors' code.
"""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine import durable
from dataengine.diagnosis.detector import Detector
from dataengine.errors import ConfigRefused, NonFinite, NothingLearned, OutOfMemory, Paused, out_of_memory
from dataengine.quality.guard import Baseline, Guard
from dataengine.records import Report, no_report, not_pausing
from dataengine.treatment.config import TreatmentConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.lora import weights_file
from dataengine.treatment.objectives.preference import PreferencePairs
from dataengine.treatment.objectives.registry import active_objectives
from dataengine.treatment.sampling.sampler import as_tensor, draw, encode
from dataengine.treatment.tuning import progress as progress_file
from dataengine.treatment.tuning.batches import Batches, used_rows, warn_of_truncated_prompts
from dataengine.treatment.tuning.encoded import RowOrder, Rows, encode_rows
from dataengine.treatment.tuning.forward import ForwardProcess, NormWatch
from dataengine.treatment.tuning.memory import fitting, free_memory, record_failure
from dataengine.treatment.tuning.moments import advice
from dataengine.treatment.tuning.preference import on_pairs
from dataengine.treatment.tuning.progress import STEPS_BACK, Parts, Progress, guard_figures, seed_of
from dataengine.treatment.tuning.regularisation import Regularisation, on_images, on_own_trajectories
from dataengine.treatment.tuning.sharing import COMFYUI, to_comfyui

HISTORY = "history.json"
LORA = "lora"
ENCODED = "encoded"
"""Folder of the encoded prompts and images, which is deleted at the end."""

WITHOUT_OFFLINE = (
    "this generator is distilled to few steps, so the offline regularisation on images, which would undo "
    "that, is off"
)
LESS = "resuming with gradient checkpointing and offloading, since it ran out of memory before"

Watch = Callable[[int, np.ndarray, np.ndarray], None]
"""Called with the number of updates, the guard's images, uint8 NHWC, and the detector's maps, float32 NHW."""


@dataclass(frozen=True, kw_only=True)
class TreatmentResult:
    """The result of a treatment: the kept LoRA, the history, and the reason why it ended.

    `kept_step` is the update whose weights were kept; 0 means that none was better than the generator as
    given. `history` has a row per update: losses, gradient norm, and under "guard" the guard's measurements.
    """

    lora_folder: Path
    kept_step: int
    updates: int
    stopped_reason: str
    history: list[dict[str, Any]]
    figures: dict[str, float] = field(default_factory=dict)
    reader: str = ""
    """What reads the LoRA into a stock pipeline (`LoraAdapter.reader`)."""


def treat(
    config: TreatmentConfig,
    family: GeneratorFamily,
    detector: Detector | None,
    prompts: Sequence[str],
    clean_images: Sequence[np.ndarray] | np.ndarray | None,
    clean_captions: Sequence[str],
    guard: Guard | None,
    work: Path,
    report: Report = no_report,
    watch: Watch | None = None,
    pausing: Callable[[], bool] = not_pausing,
    pairs: PreferencePairs | None = None,
) -> TreatmentResult:
    """Train the family's LoRA until the updates are done or the guard stops it; resumes the run in `work`.

    `clean_images`, uint8 HWC of any sizes (or NHWC), and their captions are for the offline regularisation. A
    LoRA that is already attached is trained further, and counts as part of the generator as given. Afterwards
    the family has the kept weights, and `work` holds `lora/` and `history.json`. Prompts beyond the
    generator's limit are truncated, with a warning that names them. `detector` may be None if neither
    objectives nor checkpoints need it. `watch` gets the images that the guard measures. `pausing` is called
    after every update, in a run of one process. `pairs` are those of the localized preference.

    Raises `ConfigRefused` for missing prompts, images or pairs and for a detector that does not support the
    generator's size, `NonFinite` before a non-finite value reaches the weights (the state is saved first),
    `NothingLearned` when no gradient reached the LoRA, `OutOfMemory` with settings that need less (the last
    checkpoint is kept; resumed, the run saves memory by itself, see `memory.fitting`), `Paused` after a
    checkpoint when `pausing` returns true, and whatever `report` raises.
    """
    fitted, free = fitting(config, str(family.device), work), free_memory(str(family.device))[0]
    if fitted != config:
        report(0, config.updates, LESS)
    try:
        return _Run(
            fitted,
            family,
            detector,
            prompts,
            clean_images,
            clean_captions,
            guard,
            work,
            report,
            watch,
            pausing,
            pairs,
            given=config,
        ).go()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        sentence = f"the treatment ran out of memory; its last checkpoint is kept. {advice(fitted, family)}"
        record_failure(fitted, free, sentence, work)
        raise OutOfMemory(sentence) from error


class _Run:
    """One treatment with everything that is computed once: embeddings, latents, the guard's untreated
    images."""

    def __init__(
        self,
        config: TreatmentConfig,
        family: GeneratorFamily,
        detector: Detector | None,
        prompts: Sequence[str],
        clean_images: Sequence[np.ndarray] | np.ndarray | None,
        clean_captions: Sequence[str],
        guard: Guard | None,
        work: Path,
        report: Report,
        watch: Watch | None = None,
        pausing: Callable[[], bool] = not_pausing,
        pairs: PreferencePairs | None = None,
        *,
        given: TreatmentConfig,
    ) -> None:
        """`given` is the config before anything was lowered, by which the run is known."""
        if not prompts:
            raise ConfigRefused("there are no prompts to treat on; pass at least one")
        self.config, self.family, self.guard, self.work, self.report = config, family, guard, work, report
        self.watch, self.pausing, self.state = watch, pausing, Progress()
        self.accelerator = _accelerator(family.device, config.accumulation)
        warn_of_truncated_prompts(family, prompts)
        encoded = self._encoded_prompts(prompts)
        self.batches = Batches(config, family, detector, prompts, self._tick, encoded)
        self.regularisation = self._regularisation(clean_images, clean_captions)
        told = partial(self._tell, "encoding pairs")
        reference = self.batches.as_given
        self.preference = on_pairs(config, family, pairs, reference, self.work / ENCODED, told)
        # The untreated images are generated before any weights are restored.
        self.guarded = encode(family, guard.prompts) if guard else None
        self.untreated = self._guard_images() if guard else None
        self.norms = self._norm_watch()
        if not family.adapter.parameters():
            family.adapter.add(config.lora, seed=config.seed)
        if config.checkpointing:
            family.use_checkpointing()
        self.weights = family.adapter.parameters()
        for weight in self.weights.values():
            weight.requires_grad_(True)
        self.batches.start_from(self.weights)
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.identity, self.earlier = progress_file.identities(given, prompts, self.weights)
        self.seconds: list[float] = []
        self.parts = Parts(expected=config.accumulation * (config.sampling.steps + STEPS_BACK))
        self.learns = False

    # ---- the loop ------------------------------------------------------------------------------------------

    def go(self) -> TreatmentResult:
        """The loop of updates, with measurements of the guard and checkpoints."""
        with self._text_encoders_away():
            return self._updates()

    def _updates(self) -> TreatmentResult:
        baseline = self._resume()
        while self.state.done < self.config.updates and not self.state.stopped:
            row = self._update()
            self.state.done += 1
            self.state.history.append(row)
            self.forward.advance(self.state.done)
            self.forward.require_rewards(self.state.history)
            if baseline is not None and self._looks_now():
                self._look(baseline, row)
            pauses = self._pauses_now()
            if self._saves_now() or pauses:
                self._save()
            values = {name: value for name, value in row.items() if isinstance(value, float)}
            self._tell(self.state.stopped or "treating", **values, **guard_figures(row))
            if pauses:
                raise Paused(f"paused after update {self.state.done}; resume it to continue from there")
        if self.guard is None:
            self.state.keep(self.state.done, 0.0, self.weights)
        return self._result()

    def _resume(self) -> Baseline | None:
        """Restore the state of a run in the work folder; returns the guard's baseline.

        In a fresh run the generator as given is also the reference for the first checkpoint.
        """
        restored = progress_file.restore(self.weights, self.optimizer, self.identity, self.work, self.earlier)
        self.state = restored or self.state
        self.forward = ForwardProcess(self.config, self.batches, self.weights, self.state.old)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate
        if self.guard is None or self.untreated is None:
            return None
        if restored is None:
            confidence = self._confidence(self.untreated)
            self.state.keep(0, float(confidence.mean()), self.weights)
            if self.watch is not None:
                self.watch(0, self.untreated, confidence)
            self._tell("treating", mean_confidence=float(confidence.mean()))
        return self.guard.baseline(self.untreated)

    def _tell(self, message: str, **figures: float) -> None:
        self.report(self.state.done, self.config.updates, message, **figures)

    def _tick(self) -> None:
        """Report a part of an update, which may take many minutes."""
        self.report(self.state.done + self.parts.advance(), self.config.updates, "treating")

    def _looks_now(self) -> bool:
        done = self.state.done
        return done % self.config.guard.every == 0 or done == self.config.updates

    def _saves_now(self) -> bool:
        done = self.state.done
        ended = done == self.config.updates or bool(self.state.stopped)
        return ended or done % self.config.checkpoint_every == 0

    def _pauses_now(self) -> bool:
        """Whether to pause: a pause was requested and updates remain."""
        ended = self.state.done == self.config.updates or bool(self.state.stopped)
        return not ended and self.accelerator.num_processes == 1 and self.pausing()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            progress_file.save(self.state, self.weights, self.optimizer, self.identity, self.work)
        self.accelerator.wait_for_everyone()

    def _update(self) -> dict[str, Any]:
        """One optimizer step; returns its measurements. `NonFinite` leaves weights and file unchanged."""
        started, number = time.perf_counter(), self.state.done + 1
        self.parts.restart()
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        for part in range(self.config.accumulation):
            for name, value in self._losses(number, part).items():
                sums[name] = sums.get(name, 0.0) + value / self.config.accumulation
        sums = self._over_processes(sums)
        self._require_finite("the loss", sum(sums.values()))
        for weight in self.weights.values():
            if weight.grad is None and self.accelerator.num_processes > 1:
                weight.grad = torch.zeros_like(weight)  # the others may have one, and wait for all
            if weight.grad is not None:
                weight.grad = self.accelerator.reduce(weight.grad, "mean")
        norm = float(self.accelerator.clip_grad_norm_(list(self.weights.values()), self.config.clip_norm))
        self._require_finite("the gradient", norm)
        if self.config.decay == "sqrt":
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate / number**0.5
        self.optimizer.step()
        if not self.learns and any(sums.values()):
            self._require_learning(norm)
        self.seconds.append(time.perf_counter() - started)
        loss, figures = sum(sums.values()), self.forward.figures()
        return {"update": number, "loss": loss, **sums, "grad_norm": norm, **figures}

    def _over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        """The mean over all processes, so that a NaN loss in one of them stops all."""
        if self.accelerator.num_processes == 1:  # a Mac's GPU has no float64
            return sums
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(sums, self.accelerator.reduce(values, "mean").tolist(), strict=True))

    def _require_finite(self, what: str, value: float) -> None:
        if not np.isfinite(value):
            self._save()
            raise NonFinite(what, self.state.done + 1)

    def _require_learning(self, norm: float) -> None:
        """Detects a LoRA without gradient, for example by gradient checkpointing over frozen inputs.

        Checked once, at the first update with a loss: if no pixel counts there is no gradient. A resumed run
        may have come to where no pair is left to learn from.
        """
        second = [weight for name, weight in self.weights.items() if "lora_B" in name]
        moved = sum(float(weight.detach().norm()) for weight in second)
        learned = norm > 0 or any(row["grad_norm"] > 0 for row in self.state.history)
        if not moved > 0 or not learned:
            raise NothingLearned(
                f"the first update did not change the LoRA (gradient norm {norm:.3g}); "
                "check that its target layers are used in the steps with gradient"
            )
        self.learns = True

    # ---- objectives ----------------------------------------------------------------------------------------

    def _losses(self, number: int, part: int) -> dict[str, float]:
        """Back-propagate every objective of one batch separately, so that only one graph is alive at a
        time."""
        rng = torch.Generator().manual_seed(
            seed_of(self.config.seed, number, part, self.accelerator.process_index)
        )
        values: dict[str, float] = {}
        done = (number - 1) * self.config.accumulation + part
        batch = done * self.accelerator.num_processes + self.accelerator.process_index
        if self.batches.wanted:
            with self._activations():
                terms = self.batches.terms(batch, rng)
            values |= self._backward(terms)
        values |= dict.fromkeys(self.forward.names, 0.0)
        for piece in self.forward.pieces(batch, rng):
            with self._activations():
                terms = piece()
            for name, value in self._backward(terms).items():
                values[name] += value
        if self.regularisation is not None and self.config.offline is not None:
            with self._activations():
                loss = self.regularisation(batch, rng)
            values |= self._backward({"offline": self.config.offline.gamma * loss})
        if self.preference is not None:
            with self._activations():
                loss = self.preference(batch, rng)
            values |= self._backward({"preference": loss})
        return values

    def _backward(self, terms: dict[str, Tensor]) -> dict[str, float]:
        total = torch.stack(list(terms.values())).sum()
        if torch.isfinite(total):
            self.accelerator.backward(total)
        return {name: float(term.detach()) for name, term in terms.items()}

    # ---- memory --------------------------------------------------------------------------------------------

    def _activations(self) -> AbstractContextManager[Any]:
        """Context of saved tensors: kept on the device, or offloaded to host memory."""
        if "activations" not in self.config.offload:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.family.device.type == "cuda")

    @contextmanager
    def _text_encoders_away(self) -> Iterator[None]:
        """All prompts are encoded, so the text encoders can be offloaded to host memory until the run
        ends."""
        if "text" not in self.config.offload:
            yield
            return
        modules = self.family.modules().items()
        encoders = [network for name, network in modules if name.startswith("text_encoder")]
        for network in encoders:
            network.to("cpu")
        try:
            yield
        finally:
            for network in encoders:
                network.to(self.family.device)

    # ---- inputs of the run --------------------------------------------------------------------------

    def _regularisation(
        self, images: Sequence[np.ndarray] | np.ndarray | None, captions: Sequence[str]
    ) -> Regularisation | None:
        """The offline regularisation; None without one."""
        config = self.config
        if config.offline is None:
            return None
        if not config.regularised(self.family.distilled):
            without = config.nft is None and config.preference is None
            if without and not active_objectives(config):
                raise ConfigRefused(WITHOUT_OFFLINE + "; give pixel a weight, or set offline_distilled")
            warnings.warn(WITHOUT_OFFLINE, stacklevel=2)
            return None
        if config.offline.targets == "own":
            return partial(on_own_trajectories, self.batches)
        told = partial(self._tell, "encoding artifact-free images")
        return on_images(config, self.family, images, captions, self.work / ENCODED, told)

    def _encoded_prompts(self, prompts: Sequence[str]) -> Rows | None:
        """The prompts that the run generates images of, encoded and kept on disk; None if it generates
        none."""
        if not active_objectives(self.config) and self.config.nft is None:
            return None
        used = used_rows(self.config, len(prompts), self.accelerator.num_processes)
        texts = [prompts[row] for row in used]
        told = partial(self._tell, "encoding prompts")
        encoded = encode_rows(self.work / ENCODED / "prompts", texts, self.family.encode_prompts, told)
        return RowOrder(encoded, {row: place for place, row in enumerate(used)})

    # ---- the guard -----------------------------------------------------------------------------------------

    def _look(self, baseline: Baseline, row: dict[str, Any]) -> None:
        """Measure, store the weights if they are the best inside the limits, and stop after too many
        breaches."""
        assert self.guard is not None
        state, images = self.state, self._guard_images()
        reading = self.guard.check(baseline, images, self.norms.measure() if self.norms else None)
        confidence = self._confidence(images)
        row["guard"] = {
            "values": reading.values,
            "breaches": list(reading.breaches),
            "mean_confidence": float(confidence.mean()),
            "max_confidence": float(confidence.max(axis=(1, 2)).mean()),
        }
        if self.watch is not None:
            self.watch(state.done, images, confidence)
        if not reading.breaches and confidence.mean() < state.kept_confidence:
            state.keep(state.done, float(confidence.mean()), self.weights)
        state.breaches = state.breaches + 1 if reading.breaches else 0
        if state.breaches >= self.config.guard.patience:
            state.stopped = f"the quality guard stopped at update {state.done}: {'; '.join(reading.breaches)}"

    def _norm_watch(self) -> NormWatch | None:
        """What measures how the prediction's norm grows, where the guard limits that."""
        if self.guard is None or self.guard.config.norm is None or self.guarded is None:
            return None
        noise = self.family.initial_latents(self.guard.seeds[: NormWatch.IMAGES], self.batches.size)
        return NormWatch(self.config, self.family, self.guarded, noise)

    def _guard_images(self) -> np.ndarray:
        assert self.guard is not None and self.guarded is not None

        def tell(done: float, total: int, message: str = "", **figures: float) -> None:
            self._tell(f"quality guard measurement, image {int(done)} of {total}")

        return draw(self.family, self.guarded, self.guard.seeds, self.config.measured, tell)

    @torch.no_grad()
    def _confidence(self, images: np.ndarray) -> np.ndarray:
        """Maps of the detector of the treatment, float32 NHW, to choose among checkpoints inside the guard's
        limits."""
        batches = np.array_split(images, -(-len(images) // self.config.sampling.batch))
        maps = [self.batches.detect(as_tensor(part).to(self.family.device)) for part in batches]
        return torch.cat(maps).float().cpu().numpy()

    # ---- the end -------------------------------------------------------------------------------------------

    def _result(self) -> TreatmentResult:
        """Restore the kept weights, and write the LoRA and the history."""
        state, folder = self.state, self.work / LORA
        progress_file.set_weights(state.kept, self.weights)
        if self.accelerator.is_main_process:
            self.family.adapter.save(folder)
            to_comfyui(weights_file(folder), folder / COMFYUI)
            durable.write_text(self.work / HISTORY, json.dumps(state.history) + "\n")
            shutil.rmtree(self.work / ENCODED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        figures = {"kept_confidence": state.kept_confidence} if self.guard else {}
        if self.seconds:
            figures["update_s"] = float(np.median(self.seconds))
        return TreatmentResult(
            lora_folder=folder,
            kept_step=state.kept_step,
            updates=state.done,
            stopped_reason=state.stopped,
            history=state.history,
            figures=figures,
            reader=self.family.adapter.reader,
        )


def _accelerator(device: torch.device, accumulation: int) -> Any:
    """A fresh accelerator: its settings are global, and those of an earlier run in this process may differ.

    Mixed precision is autocast around the denoiser only, because VAE and detector stay in float32.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device.type == "cpu", gradient_accumulation_steps=accumulation)
