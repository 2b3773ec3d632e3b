"""The metadata of every generator family, read without loading torch or diffusers.

A new family is one module in this package and one entry in `FAMILIES`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Classes = frozenset[tuple[str, str]]
"""(library, class) pairs that a component of a pipeline may have; "*" in a class stands for any letters."""


def _diffusers(*names: str) -> Classes:
    return frozenset(("diffusers", name) for name in names)


def _transformers(*names: str) -> Classes:
    return frozenset(("transformers", name) for name in names)


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """One family: the pipelines that it opens, and its capabilities."""

    implementation: str
    """ "module:class" in this package; a `family.GeneratorFamily`."""
    pipelines: tuple[str, ...]
    """Pipeline classes of diffusers, as named in `model_index.json`. All are opened as the first."""
    components: Mapping[str, Classes]
    """The components of such a pipeline, by name; anything else in its folder is ignored."""
    takes_lora: bool
    """Whether diffusers loads a LoRA into its pipeline, so that it can be treated."""
    reads_prompts: bool
    """Whether it is text-conditional; otherwise it is unconditional or class-conditional."""
    refinable: bool
    """Whether its whole denoiser can be trained by noise prediction (a `family.Refinable`)."""
    with_weights: tuple[str, ...] | None = None
    """The components that have weights; None for all but scheduler and tokenizers."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The components that have weights."""
        if self.with_weights is not None:
            return self.with_weights
        return tuple(name for name in self.components if not name.startswith(("scheduler", "tokenizer")))

    def load(self) -> Any:
        """The family's class. Imports torch and diffusers."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


VAE = _diffusers("AutoencoderKL")
CLIP_TOKENIZER = _transformers("CLIPTokenizer", "CLIPTokenizerFast")
SCHEDULER = _diffusers("*Scheduler")
"""Any: only its noise schedule is used, since sampling brings its own steps."""
STABLE_DIFFUSION: Mapping[str, Classes] = {
    "scheduler": SCHEDULER,
    "unet": _diffusers("UNet2DConditionModel"),
    "vae": VAE,
    "text_encoder": _transformers("CLIPTextModel"),
    "tokenizer": CLIP_TOKENIZER,
}

FAMILIES: dict[str, FamilyFacts] = {
    "flux": FamilyFacts(
        implementation="flux:FluxFamily",
        pipelines=("FluxPipeline",),
        components={
            "scheduler": SCHEDULER,
            "transformer": _diffusers("FluxTransformer2DModel"),
            "vae": VAE,
            "text_encoder": _transformers("CLIPTextModel"),
            "tokenizer": CLIP_TOKENIZER,
            "text_encoder_2": _transformers("T5EncoderModel"),
            "tokenizer_2": _transformers("T5Tokenizer", "T5TokenizerFast"),
        },
        takes_lora=True,
        reads_prompts=True,
        refinable=False,
    ),
    "stable-diffusion": FamilyFacts(
        implementation="stable_diffusion:StableDiffusionFamily",
        pipelines=("StableDiffusionPipeline",),
        components=STABLE_DIFFUSION,
        takes_lora=True,
        reads_prompts=True,
        refinable=True,
    ),
    "stable-diffusion-xl": FamilyFacts(
        implementation="stable_diffusion_xl:StableDiffusionXLFamily",
        pipelines=("StableDiffusionXLPipeline",),
        components={
            **STABLE_DIFFUSION,
            "text_encoder_2": _transformers("CLIPTextModelWithProjection"),
            "tokenizer_2": CLIP_TOKENIZER,
        },
        takes_lora=True,
        reads_prompts=True,
        refinable=True,
    ),
    "dit": FamilyFacts(
        implementation="dit:DiTFamily",
        pipelines=("DiTPipeline",),
        components={
            "scheduler": SCHEDULER,
            "vae": VAE,
            "transformer": _diffusers("DiTTransformer2DModel", "Transformer2DModel"),
        },
        takes_lora=False,
        reads_prompts=False,
        refinable=True,
    ),
    "unconditional": FamilyFacts(
        implementation="unconditional:UnconditionalFamily",
        pipelines=("DDPMPipeline", "DDIMPipeline"),
        components={
            "scheduler": SCHEDULER,
            "unet": _diffusers("UNet2DModel"),
        },
        takes_lora=False,
        reads_prompts=False,
        refinable=True,
    ),
    "latent-unconditional": FamilyFacts(
        implementation="latent_unconditional:LatentUnconditionalFamily",
        pipelines=("LDMPipeline",),
        components={
            "scheduler": SCHEDULER,
            "unet": _diffusers("UNet2DModel"),
            "vqvae": _diffusers("VQModel"),
        },
        takes_lora=False,
        reads_prompts=False,
        refinable=True,
    ),
}
"""The families by name."""


PIPELINES: dict[str, FamilyFacts] = {
    pipeline: facts for facts in FAMILIES.values() for pipeline in facts.pipelines
}
"""The families by the pipeline class in `model_index.json`."""
