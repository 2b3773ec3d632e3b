"""Stable Diffusion XL and every model of diffusers' `StableDiffusionXLPipeline`: ε-prediction, two CLIPs, and
the image's size as conditioning of the UNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.stable_diffusion import StableDiffusionFamily
from dataengine.treatment.families.weight_files import pipeline_variant

GUIDANCE = 5.0


class StableDiffusionXLFamily(StableDiffusionFamily):
    """See `families.GeneratorFamily`. Samples with DDIM (η = 0) whatever scheduler the folder names.

    The size conditioning is the generated size without cropping, as by default in the stock pipeline.
    """

    name: ClassVar[str] = "stable-diffusion-xl"
    guidance: float = GUIDANCE

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder, with the denoiser quantised to `bits`."""
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("unet", bits, dtype),
            feature_extractor=None,
            image_encoder=None,
            add_watermarker=False,
        )
        return cls(pipeline)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Both CLIPs' concatenated sequences and the second one's pooled vector, and those of the empty
        prompt."""
        sequence, empty, pooled, empty_pooled = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        return Conditioning(
            {"sequence": sequence, "empty": empty, "pooled": pooled, "empty pooled": empty_pooled}
        )

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `GeneratorFamily`."""
        config, sequence = self.pipeline.unet.config, super().blank_conditioning(count)["sequence"]
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled = sequence.new_zeros(count, width)
        return Conditioning(
            {"sequence": sequence, "empty": sequence, "pooled": pooled, "empty pooled": pooled}
        )

    def _added(
        self, latents: Tensor, conditioning: Conditioning, sequences: Sequence[str]
    ) -> dict[str, Tensor] | None:
        pooled = {"sequence": "pooled", "empty": "empty pooled"}
        height, width = (side * self._factor for side in latents.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=self.pipeline.unet.dtype)
        return {
            "text_embeds": torch.cat([conditioning[pooled[name]] for name in sequences]),
            "time_ids": sizes.expand(len(latents), -1).to(latents.device),
        }
