"""The memory of a whole treatment, moment by moment: which one is the peak, on the device and in the host.

Each moment is simulated on fake tensors, as an update is (see `estimate`). The process itself, the guard's
scorers and rewards are not counted.
"""

from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataengine.treatment.config import TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.shapes import ShapesFamily
from dataengine.treatment.sampling.sampler import ENCODED_AT_ONCE, size_of
from dataengine.treatment.tuning.estimate import (
    GIGABYTE,
    Estimate,
    NoDetector,
    estimate,
    fake_tensors,
    preflight,
    simulate,
    simulate_chain,
    size_of_weights,
    stored_bits,
    stored_weights,
)
from dataengine.treatment.tuning.weightless import family_without_weights

VERIFIED = 4
"""Images that a fresh pipeline draws with the saved LoRA."""
PIXELS_AT_ONCE = 4_194_304
"""Most pixels of which a detector predicts maps at once when both generators are judged."""


CLIP_TOKENS = 77
UPDATE = "an update"
JUDGING = "judging"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one part of a treatment needs."""

    name: str
    weights_bytes: int
    """Weights on the device, LoRA and optimizer included."""
    activations_bytes: int
    """Peak bytes on the device in addition to the weights."""
    host_bytes: int
    """Peak bytes in host memory besides what is on the device."""
    base_bytes: int = 0
    """Of the weights, the generator's own."""

    @property
    def device_bytes(self) -> int:
        """Peak bytes on the device."""
        return self.weights_bytes + self.activations_bytes


@dataclass(frozen=True, order=True)
class Peak:
    """How much is needed at most, and at which moment."""

    size: int
    moment: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.size / GIGABYTE:.2f} GB" + (f" ({self.moment})" if self.moment else "")


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """The needs of a run: of one update, and of every other moment."""

    update: Estimate
    moments: tuple[Moment, ...]

    def peaks(self, on_cpu: bool) -> tuple[Peak, Peak | None]:
        """The moments that need most on the device and in the host; on the CPU, the one of both together."""
        if on_cpu:
            both = [Peak(each.device_bytes + each.host_bytes, each.name) for each in self.moments]
            return max(both), None
        return (
            max(Peak(moment.device_bytes, moment.name) for moment in self.moments),
            max(Peak(moment.host_bytes, moment.name) for moment in self.moments),
        )

    def as_json(self) -> dict[str, Any]:
        """Bytes by name, for desks and commands."""
        return {**asdict(self.update), "moments": [asdict(moment) for moment in self.moments]}


def estimate_moments(
    config: TreatmentConfig,
    generator: Path | GeneratorFamily,
    detector: Any,
    dtype: torch.dtype = torch.float32,
    bits: int | None = None,
    judging: int = 32,
    on_cpu: bool = False,
    prompt: str = "",
) -> RunEstimate:
    """The needs of a treatment with that detector, judged with `judging` images at once. On the CPU networks
    are not loaded twice. `prompt` is the longest, for classes whose memory depends on that.

    Raises `ModelRefused` for a folder that would not be loaded.
    """
    with fake_tensors():
        family = family_without_weights(generator, dtype, prompt)
        return moments_of(config, family, detector, bits, judging, on_cpu)


def moments_of(
    config: TreatmentConfig,
    family: GeneratorFamily,
    detector: Any,
    bits: int | None,
    judging: int,
    on_cpu: bool,
) -> RunEstimate:
    """See `estimate_moments`; of a generator and a detector without weights, within `fake_tensors()`."""
    whole = stored_weights(family, (), bits)
    resting = stored_weights(family, config.offload, bits)
    treated = max(config.updates * config.batch * config.accumulation, config.guard.prompts)

    @cache
    def encoding(prompts: int) -> int:
        return encoding_bytes(family, prompts) + _bytes(family.blank_conditioning(prompts))

    most, judged_at_once = min(ENCODED_AT_ONCE, treated), min(ENCODED_AT_ONCE, judging)
    # Drawn with before checkpointing is switched on, as a fresh pipeline draws.
    batch = config.sampling.batch
    judged = drawing_bytes(config, family, batch)
    verified = judged if batch <= VERIFIED else drawing_bytes(config, family, VERIFIED)
    update = estimate(config, family, detector, bits)
    lora = sum(weight.numel() * weight.element_size() for weight in family.adapter.parameters().values())
    # Checkpointing slices batches.
    guarding = drawing_bytes(config, family, batch) if config.checkpointing and batch > 1 else judged
    height, width = size_of(family, config.sampling)
    watched = predicting_bytes(detector, (batch, height, width))
    scored = predicting_bytes(
        detector, (max(1, min(judging, PIXELS_AT_ONCE // (height * width))), height, width)
    )
    away, loading = whole - resting, 0 if on_cpu else whole
    moments = (
        Moment(
            name="loading and encoding",
            base_bytes=whole,
            weights_bytes=whole + size_of_weights(detector),
            activations_bytes=max(encoding(most), _encoding_images(config, family)),
            host_bytes=max(loading, 2 * _bytes(family.blank_conditioning(most))),
        ),
        Moment(
            name=UPDATE,
            base_bytes=resting,
            weights_bytes=update.weights_bytes,
            activations_bytes=update.activations_bytes,
            host_bytes=away + (update.saved_bytes if "activations" in config.offload else 0),
        ),
        Moment(
            name="the quality guard",
            base_bytes=resting,
            weights_bytes=update.weights_bytes,
            activations_bytes=max(guarding, watched),
            host_bytes=away + guard_bytes(config, height, width),
        ),
        Moment(
            name="verification",
            base_bytes=whole,
            weights_bytes=whole + lora,
            activations_bytes=max(encoding(VERIFIED), verified),
            host_bytes=loading,
        ),
        Moment(
            name=JUDGING,
            base_bytes=whole,
            weights_bytes=whole + lora,
            activations_bytes=max(encoding(judged_at_once), judged),
            host_bytes=loading,
        ),
        Moment(
            name="the detector's maps of the judged images",
            weights_bytes=size_of_weights(detector),
            activations_bytes=scored,
            host_bytes=0,
        ),
    )
    return RunEstimate(update=update, moments=moments)


def guard_bytes(config: TreatmentConfig, height: int, width: int) -> int:
    """Host memory of the guard's measurement: both sets of images, and what their comparison holds at once.

    Two float32 copies for the mean change; for the diversity one, and the pairs of a prompt three times.
    """
    guard = config.guard
    values = guard.prompts * guard.seeds * height * width * 3
    pairs = (guard.seeds - 1) / 2
    return int(values * (2 + max(2 * 4, 4 + 3 * 4 * pairs)))


def drawing_bytes(config: TreatmentConfig, family: GeneratorFamily, batch: int) -> int:
    """Peak bytes of drawing `batch` images without gradient."""

    def draw() -> Tensor:
        noise = family.initial_latents([0] * batch, size_of(family, config.sampling))
        return family.decode(simulate_chain(config, family, noise, 1)).sum()

    return simulate(draw)


def predicting_bytes(detector: Any, shape: tuple[int, int, int]) -> int:
    """Peak bytes of the detector's maps of that many images of that size."""
    count, height, width = shape
    dtype = next((weight.dtype for weight in detector.parameters()), torch.float32)
    return simulate(lambda: detector.confidence(torch.empty(count, 3, height, width, dtype=dtype)).sum())


def encoding_bytes(family: GeneratorFamily, count: int = ENCODED_AT_ONCE) -> int:
    """Peak bytes of encoding `count` prompts: the text encoders one after the other, on full sequences."""
    networks = {name: part for name, part in family.modules().items() if name.startswith("text_encoder")}
    if isinstance(family, ShapesFamily):
        read = family.sequences(count)
    else:
        shapes = [tensor.shape for tensor in family.blank_conditioning(1).tensors.values()]
        length = max((shape[1] for shape in shapes if len(shape) == 3), default=1)
        read = {name: (count, _tokens(network, length)) for name, network in networks.items()}
    tokens = {
        name: torch.zeros(shape, dtype=torch.long, device=family.device) for name, shape in read.items()
    }
    return max((_reading(networks[name], tokens[name]) for name in read), default=0)


def _tokens(network: Any, length: int) -> int:
    """How long a text encoder's sequences are: CLIP's have their own length, whatever the other's."""
    longest = getattr(network.config, "max_position_embeddings", None)
    return min(longest, max(length, CLIP_TOKENS)) if longest else length


def _reading(network: Any, tokens: Tensor) -> int:
    """Peak bytes of a text encoder; where shapes alone do not carry it through, all its hidden states and the
    probabilities of a language model's head."""
    try:
        return simulate(partial(_text, network, tokens))
    except Exception:  # encoders that look at the values of their tokens
        config = network.config.get_text_config()
        layers: int = getattr(config, "num_hidden_layers", None) or config.num_layers
        words = config.vocab_size if getattr(network, "lm_head", None) is not None else 0
        values = tokens.numel() * ((layers + 1) * config.hidden_size + words)
        return int(values * network.dtype.itemsize)


def _text(network: Any, tokens: Tensor) -> Tensor:
    answered: Tensor = network(tokens, output_hidden_states=True)[0]
    return answered.sum()


def _encoding_images(config: TreatmentConfig, family: GeneratorFamily) -> int:
    if config.offline is None and config.preference is None:
        return 0
    height, width = size_of(family, config.sampling)
    return simulate(lambda: family.encode_images(torch.empty(config.sampling.batch, 3, height, width)).sum())


def _bytes(conditioning: Conditioning) -> int:
    return sum(tensor.nbytes for tensor in conditioning.tensors.values())


def advice(
    config: TreatmentConfig,
    generator: Path | GeneratorFamily,
    dtype: torch.dtype = torch.float32,
    bits: int | None = None,
    detector: Any = None,
) -> str:
    """Advice: settings that need less memory, with their estimated peaks.

    `dtype` and `bits` are those of a folder's weights; a loaded generator's own are known.
    """
    stored = stored_bits(generator, bits)
    fewer = "" if stored == 4 else "; or a 4-bit base"
    halves = {"batch": max(1, config.batch // 2), "accumulation": 2 * config.accumulation}
    drawn = config.sampling.model_copy(update={"batch": max(1, config.sampling.batch // 4)})
    updating: dict[str, dict[str, Any]] = {
        "checkpointing": {"checkpointing": True},
        "grad_steps 1": {"grad_steps": 1},
        f"batch {halves['batch']} with accumulation {halves['accumulation']}": halves,
        "offloading text and activations": {"offload": ("text", "activations")},
    }
    drawing: dict[str, dict[str, Any]] = {f"sampling.batch {drawn.batch}": {"sampling": drawn}}
    frozen = detector or NoDetector()

    def moments(changed: TreatmentConfig) -> tuple[Moment, ...]:
        return estimate_moments(changed, generator, frozen, dtype, stored).moments

    try:
        largest = sorted(Peak(moment.device_bytes, moment.name) for moment in moments(config))
        now, changes = largest[-1], updating if largest[-1].moment == UPDATE else drawing
        peaks = {}
        for name, change in changes.items():
            changed = config.model_copy(update=change)
            if changes is updating:
                update = preflight(changed, generator, frozen, dtype, stored).peak_bytes
                peaks[name] = max(update, largest[-2].size)
            else:
                peaks[name] = max(moment.device_bytes for moment in moments(changed))
    except Exception:  # a failed estimate must not hide the original error
        return f"Settings that need less memory: {'; '.join(updating | drawing)}{fewer}."
    less = [f"{name} ({size / GIGABYTE:.2f} GB)" for name, size in peaks.items() if size < now.size]
    return (
        f"Estimated need{'' if detector else ' without the detector'}: {now.text}. Settings that need less: "
        f"{'; '.join(less) or 'none of them alone'}{fewer}."
    )
