"""Conditions that people draw under: other samplers, steps, guidance, sizes, weights, strengths of a LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.records import GeneratorVersion
from dataengine.treatment.config import SamplingConfig, WeightsConfig
from pipelines.config import Axis
from pipelines.generators.draw import lora_folder
from pipelines.generators.files import DISTILLED, download_generator, weights_of
from pipelines.runtime.context import Context

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily

FLOAT8, BFLOAT16, EIGHT_BITS = "float8", "bfloat16", "8 bits"
STEPS = (0.5, 2.0)
GUIDANCE = (0.7, 1.4)
SIZES = {"0.75 × size": (0.75, 0.75), "1.25 × size": (1.25, 1.25), "portrait": (1.25, 0.75)}
"""Factors of height and width."""
STRENGTHS = (0.5, 0.75, 1.25, 1.5)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to draw; the fields are factors of, or instead of, the usual ones."""

    name: str
    axis: Axis | None = None
    """None for the usual way."""
    solver: str = ""
    """"" is the plain steps that treatments are trained with."""
    steps: float = 1.0
    guidance: float = 1.0
    size: tuple[float, float] = (1.0, 1.0)
    weights: str = ""
    """"" is as registered."""
    merged: bool = False
    """The LoRA is added to the weights before they are rounded."""
    strength: float = 1.0
    second: bool = False
    """A second LoRA is attached as well."""

    @property
    def of_base(self) -> "Condition":
        """The condition that a base without this LoRA is drawn under."""
        return replace(self, name="", axis=None, merged=False, strength=1.0)

    def sampling(self, family: "GeneratorFamily", usual: SamplingConfig) -> SamplingConfig:
        """The sampler's settings; sizes are rounded to what the family draws."""
        from dataengine.treatment.sampling.sampler import guidance_of, size_of

        height, width = (
            max(1, round(side * factor / family.multiple)) * family.multiple
            for side, factor in zip(size_of(family, usual), self.size, strict=True)
        )
        return usual.model_copy(
            update={
                "steps": max(1, round(usual.steps * self.steps)),
                "guidance": guidance_of(family, usual) * self.guidance,
                "height": height,
                "width": width,
            }
        )


USUAL = Condition(name="as trained")


def conditions_of(
    family: "GeneratorFamily", weights: WeightsConfig, axes: Sequence[Axis], lora: bool, second: bool
) -> tuple[list[Condition], list[tuple[str, str]]]:
    """The conditions along these axes that the family can be drawn under, the usual one first, and those
    that cannot be drawn here, with the reason."""
    from dataengine.treatment.sampling.solvers import solvers_of

    found, left_out = [USUAL], []
    if "sampler" in axes:
        found += [Condition(name=name, axis="sampler", solver=name) for name in solvers_of(family)]
    if "steps" in axes:
        found += [Condition(name=f"{factor:g} × steps", axis="steps", steps=factor) for factor in STEPS]
    if "guidance" in axes:
        guided = family.guidance > 0
        found += [
            Condition(name=f"{factor:g} × guidance", axis="guidance", guidance=factor)
            for factor in (GUIDANCE if guided else ())
        ]
        left_out += [] if guided else [("guidance", "this generator takes no guidance")]
    if "size" in axes:
        found += [Condition(name=name, axis="size", size=factors) for name, factors in SIZES.items()]
    if "weights" in axes:
        kinds = [FLOAT8] if weights.precision == "bfloat16" else [BFLOAT16, FLOAT8]
        for kind in kinds if weights.bits is None else ():
            found.append(Condition(name=kind, axis="weights", weights=kind))
            if lora:
                name = f"{kind}, merged before"
                found.append(Condition(name=name, axis="weights", weights=kind, merged=True))
        if reason := _no_eight_bits(family, weights):
            left_out.append((EIGHT_BITS, reason))
        else:
            found.append(Condition(name=EIGHT_BITS, axis="weights", weights=EIGHT_BITS))
    if "strength" in axes and lora:
        found += [
            Condition(name=f"strength {value:g}", axis="strength", strength=value) for value in STRENGTHS
        ]
    if "second" in axes and lora:
        if second:
            found.append(Condition(name="with a second LoRA", axis="second", second=True))
        else:
            left_out.append(("a second LoRA", "none was given"))
    return found, left_out


def _no_eight_bits(family: "GeneratorFamily", weights: WeightsConfig) -> str:
    """Why the generator cannot be quantised to 8 bits here; "" if it can."""
    if weights.bits is not None:
        return f"it is registered with {weights.bits} bits"
    if family.device.type != "cuda" or find_spec("bitsandbytes") is None:
        return "it needs a GPU and bitsandbytes"
    return ""


def open_under(
    context: Context, version: GeneratorVersion, condition: Condition, second: Path | None
) -> "GeneratorFamily":
    """Open a generator with the weights of a condition: rounded, with its LoRA merged, with a second LoRA."""
    import torch

    from dataengine.treatment.sampling.rounding import denoiser_of, merge_lora, round_to_float8
    from dataengine.treatment.tuning.sharing import add_second, set_strength

    weights = weights_of(version)
    if condition.weights == EIGHT_BITS:
        weights = weights.model_copy(update={"bits": 8})
    elif condition.weights == BFLOAT16 and not condition.merged:
        weights = weights.model_copy(update={"precision": "bfloat16"})
    location = download_generator(context.workspace, version)
    family = context.models.open_generator(location, lora_folder(context, version), weights)
    family.distilled = bool(version.settings.get(DISTILLED, False))
    strength = version.settings.get("strength")
    if strength is not None:
        set_strength(family, strength)
    if condition.second and second is not None:
        add_second(family, second)
    if condition.merged:
        merge_lora(family)
    if condition.weights == FLOAT8:
        round_to_float8(denoiser_of(family))
    elif condition.weights == BFLOAT16 and condition.merged:
        for name, network in family.modules().items():
            # As where the weights are loaded so.
            network.to(torch.float32 if name == "vae" else torch.bfloat16)
    return family


def draw_under(
    context: Context,
    family: "GeneratorFamily",
    condition: Condition,
    prompts: Sequence[str],
    seeds: Sequence[int],
    usual: SamplingConfig,
    own_strength: float = 1.0,
) -> np.ndarray:
    """Images uint8 NHWC of a generator that was opened for the condition, one per prompt and its seed."""
    from dataengine.treatment.sampling.solvers import draw_with
    from dataengine.treatment.tuning.sharing import set_strength

    if condition.axis == "strength":
        set_strength(family, own_strength * condition.strength)
    try:
        settings: Any = condition.sampling(family, usual)
        if condition.solver:
            return draw_with(family, condition.solver, prompts, seeds, settings)
        return context.models.generate(family, list(prompts), list(seeds), settings)
    finally:
        if condition.axis == "strength":
            set_strength(family, own_strength)
