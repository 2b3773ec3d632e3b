"""Whether a pipeline's own call does what `StockFamily` takes it to do, tried on small images when it is
opened.

The call of every class is written anew, and changes with diffusers: what is assumed of it is tested on the
model at hand, and named where it does not hold.
"""

import hashlib
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataengine.errors import ConfigRefused, ModelRefused, reason_of
from dataengine.treatment.families.diffusion import broadcast_level
from dataengine.treatment.families.own_call.hooked import Halt
from dataengine.treatment.families.own_call.quiet import quiet
from dataengine.treatment.families.stock import StockFamily

logger = logging.getLogger(__name__)

PROMPT = "a"
CACHE = "CLINIC_CACHE"
"""Environment variable that names another folder for what can be computed again."""
HEAD = 1 << 20
"""Bytes of each file that its fingerprint reads: all settings, and the headers of weights."""
CLOSE = 1e-3
"""Largest difference that rounding explains, relative to the largest value."""
SIDES = (2, 4, 8)
"""Sides of the images tried, in multiples of the pipeline's smallest."""
HOW = (
    "Only pipelines whose call can be driven step by step are opened; a row for the class in "
    "dataengine/treatment/families/rows.py can say what is special about it (docs/generators.md)"
)


@dataclass(frozen=True)
class Asked:
    """One step of a chain: the pipeline's latents, the scheduler's time, and what it was handed."""

    latents: Tensor
    time: Tensor
    output: Tensor


def check_once(family: StockFamily, folder: Path) -> None:
    """`check`, unless the same files have passed it with this code and this diffusers."""
    family.frozen()
    passed = _verdict(folder, family.denoiser.dtype)
    if passed.is_file():
        return
    with quiet():
        check(family)
    if family.row.tested is None:
        logger.warning("%s: opened by its own call, not tested", family.kind)
    with suppress(OSError):
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def has_passed(folder: Path, dtype: torch.dtype) -> bool:
    """Whether these files have passed the check, with this code and this diffusers."""
    return _verdict(folder, dtype).is_file()


def _verdict(folder: Path, dtype: torch.dtype) -> Path:
    return _cache() / _fingerprint(folder, dtype)


def _cache() -> Path:
    """The folder of the verdicts: empty files named by fingerprints."""
    folder = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "artifact-clinic"
    return Path(folder).expanduser() / "generators"


def _fingerprint(folder: Path, dtype: torch.dtype) -> str:
    """Of the files' sizes, the settings, the headers of the weights, this package's code and diffusers."""
    import diffusers

    found = hashlib.sha256(f"{diffusers.__version__} {torch.__version__} {dtype}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        found.update(source.read_bytes())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(folder)} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            found.update(opened.read(HEAD))
    return found.hexdigest()


@torch.no_grad()
def check(family: StockFamily) -> None:
    """Raise `ModelRefused`, naming the check, for a pipeline that cannot be driven by its own call."""
    try:
        _check(family)
    except ModelRefused as error:
        raise ModelRefused(f"{family.kind} does not open by its own call: {error}. {HOW}") from error
    except Exception as error:
        raise ModelRefused(
            f"{family.kind} does not open by its own call, which failed: {reason_of(error)}. {HOW}"
        ) from error


def _check(family: StockFamily) -> None:
    check_prompts(family)
    check_layers(family)
    check_last_step(family)
    size, chain, final = _small_chain(family)
    check_steps(family, size, chain)
    check_decoding(family, size, final)
    check_unguided(family, size)


def check_prompts(family: StockFamily) -> None:
    """The prompts that a guided call encodes must begin with those of an unguided one."""
    guided = family.encoded([PROMPT])
    plain = family.encoded([PROMPT], family.training_guidance)
    # Without guidance there may be no negative prompt: None, or an empty list.
    for ours, its in zip(guided, plain, strict=False):
        pairs = zip(_each(ours), _each(its), strict=True)
        if not all(b is None or b == [] or _equal(a, b) for a, b in pairs):
            raise ModelRefused("prompts: with guidance it encodes them otherwise than without")
    if len(plain) > len(guided):
        raise ModelRefused("prompts: without guidance it encodes more of them than with it")


def check_layers(family: StockFamily) -> None:
    """Each choice of LoRA layers must name linear layers of the denoiser."""
    linear = [name for name, part in family.denoiser.named_modules() if isinstance(part, nn.Linear)]
    for pattern in (family.row.attention, family.row.layers):
        if not any(re.fullmatch(pattern, name) for name in linear):
            raise ModelRefused(f"LoRA layers: none of its {len(linear)} linear layers is named {pattern}")


def check_last_step(family: StockFamily) -> None:
    """The answer at the last step must move the image, since treatment trains through the last steps."""
    latents = family.initial_latents([0], _smallest(family))
    schedule = family.schedule(max(family.steps, 2), latents)
    alpha, sigma = schedule.alpha[-1], schedule.sigma[-1]
    after_alpha, after = schedule.next_alpha[-1], schedule.next_sigma[-1]
    moved = after - sigma if family.prediction == "flow" else after - after_alpha * sigma / alpha
    if not abs(float(moved)) > 1e-6:
        raise ModelRefused(
            "last step: its scheduler ends with a step that changes nothing, so that its last step cannot be "
            "trained (steps_offset or set_alpha_to_one)"
        )


def check_steps(family: StockFamily, size: tuple[int, int], chain: list[Asked]) -> None:
    """Asked for one step, the pipeline must answer as within its own chain."""
    conditioning = family.encode_prompts([PROMPT])
    layout = family.layout(size)
    for number, step in enumerate(chain, start=1):
        latents, time = layout.outside(step.latents.float()), step.time.reshape(1).cpu()
        if family.prediction == "flow":
            time = time.double() / family.pipeline.scheduler.config.num_train_timesteps
        found = family.predict(latents, time, conditioning, family.guidance)
        expected = layout.outside(step.output.float())
        if family.velocity:
            alpha, sigma = (broadcast_level(level, latents) for level in family.levels(time))
            expected = alpha * expected + sigma * latents
        if not _near(found, expected):
            raise ModelRefused(
                f"steps: asked for step {number} alone it answers otherwise than in its chain, as if steps "
                "depended on those before"
            )


def check_decoding(family: StockFamily, size: tuple[int, int], final: Tensor) -> None:
    """Our decoding of final latents must give the image that the pipeline gives."""
    stock = family.finished(final.float(), size)
    ours = family.decode(family.layout(size).outside(final.float()))
    if ours.shape != stock.shape:
        raise ModelRefused(
            f"decoding: its image has the shape {tuple(stock.shape)}, that of its VAE {tuple(ours.shape)}"
        )
    if not (ours - stock.to(ours)).abs().max() <= CLOSE:
        raise ModelRefused("decoding: its image is not its VAE's output scaled from [−1, 1] to [0, 1]")


def check_unguided(family: StockFamily, size: tuple[int, int]) -> None:
    """At the guidance scale of training the denoiser must be asked about each image once."""
    asked: list[int] = []

    def count(original: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(next(iter((*args, *kwargs.values())))))
        return original(*args, **kwargs)

    def leave(original: Any, *args: Any, **kwargs: Any) -> None:
        raise Halt(None)

    family.call({"forward": count, "step": leave}, [PROMPT], size, family.training_guidance)
    if sum(asked) != 1:
        raise ModelRefused(
            f"guidance: at scale {family.training_guidance:g} it asks its denoiser {sum(asked)} times about "
            "one image; “unguided” in its row names another scale"
        )


def _smallest(family: StockFamily) -> tuple[int, int]:
    """The first of the small sizes that the pipeline draws, else its usual one."""
    for times in SIDES:
        size = times * family.multiple, times * family.multiple
        try:
            family.layout(size)
        except (ConfigRefused, ValueError):
            continue
        return size
    return family.size


def _small_chain(family: StockFamily) -> tuple[tuple[int, int], list[Asked], Tensor]:
    """Two steps of its own chain at a small size, and the latents after them."""
    size = _smallest(family)
    chain: list[Asked] = []

    def watch(
        original: Any, model_output: Tensor, time: Tensor, sample: Tensor, *args: Any, **kw: Any
    ) -> Any:
        chain.append(Asked(sample, time, model_output))
        result = original(model_output, time, sample, *args, **kw)
        if len(chain) == 2:
            raise Halt(result[0] if isinstance(result, tuple) else result.prev_sample)
        return result

    final = family.call({"step": watch}, [PROMPT], size, family.guidance, steps=2)
    if len(chain) != 2 or not torch.is_tensor(final):
        raise ModelRefused(f"steps: of two asked steps it took {len(chain)}")
    return size, chain, final


def _each(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(b, list):
        return isinstance(a, list) and len(a) == len(b) and all(map(_equal, a, b))
    return torch.is_tensor(a) and a.shape == b.shape and _near(a.float(), b.float())


def _near(found: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding; NaN is equal to nothing."""
    return bool((found - expected).abs().max() <= CLOSE * expected.abs().max().clamp(min=1e-6))
