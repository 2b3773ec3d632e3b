"""Faults of diffusers that we work around. A test that fails here says that one is gone: then take out what
works around it, and its line in docs/generators.md."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch

from dataengine.treatment.families.rows import ROWS, TESTED, Row
from tests.dataengine.treatment.families.tiny_pipelines import tiny_pipeline
from tests.dataengine.treatment.tiny import PROMPTS, SIDE


def gradient(pipeline: Any) -> dict[str, torch.Tensor]:
    """Of the denoiser's weights, by name, through its call up to the latents; absent where none arrived."""
    network = pipeline.transformer
    network.zero_grad()
    latents = (
        type(pipeline)
        .__call__.__wrapped__(
            pipeline,
            prompt=list(PROMPTS[:2]),
            height=SIDE,
            width=SIDE,
            num_inference_steps=1,
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            output_type="latent",
        )
        .images
    )
    latents.square().mean().backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def chroma_checkpoints_without_its_mask() -> bool:
    """Single blocks that are computed again get no attention mask."""
    pipeline = tiny_pipeline("ChromaPipeline")
    plain = {name: value.clone() for name, value in gradient(pipeline).items()}
    pipeline.transformer.enable_gradient_checkpointing()
    checkpointed = gradient(pipeline)
    difference = sum((plain[name] - checkpointed[name]).square().sum() for name in plain)
    return bool(difference.sqrt() > 1e-2 * sum(value.square().sum() for value in plain.values()).sqrt())


def hidream_experts_pass_no_gradient() -> bool:
    """Their inference runs under no_grad, and only their training does not."""
    pipeline = tiny_pipeline("HiDreamImagePipeline")
    pipeline.default_sample_size = SIDE // 4
    lacking = {name for name, _ in pipeline.transformer.named_parameters()} - gradient(pipeline).keys()
    return any(".ff_i.experts." in name for name in lacking)


def hidream_draws_one_area() -> bool:
    """Every size is scaled to the area of 128 × 128 latents."""
    pipeline, sizes = tiny_pipeline("HiDreamImagePipeline"), []

    def noted(count, channels, height, width, *rest):
        sizes.append((height, width))
        raise InterruptedError

    pipeline.prepare_latents = noted
    with pytest.raises(InterruptedError):
        pipeline(prompt="a", height=SIDE, width=2 * SIDE, num_inference_steps=1)
    return sizes != [(SIDE, 2 * SIDE)]


def z_image_writes_into_the_prompts() -> bool:
    """The caller's list holds chat messages afterwards."""
    prompts = list(PROMPTS[:2])
    tiny_pipeline("ZImagePipeline").encode_prompt(prompts, do_classifier_free_guidance=False)
    return prompts != list(PROMPTS[:2])


def binning_is_on_by_default() -> bool:
    """Sana and PixArt draw at one of their own sizes, and resize."""
    kinds = (diffusers.SanaPipeline, diffusers.PixArtSigmaPipeline)
    defaults = [
        inspect.signature(kind.__call__).parameters["use_resolution_binning"].default for kind in kinds
    ]
    return all(defaults)


def qwen_guides_only_with_a_negative_prompt() -> bool:
    """A guidance scale alone changes nothing."""
    pipeline = tiny_pipeline("QwenImagePipeline")

    def drawn(scale: float) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        settings = {"height": SIDE, "width": SIDE, "num_inference_steps": 2, "output_type": "pt"}
        return pipeline(prompt="a", true_cfg_scale=scale, generator=rng, **settings).images

    return torch.equal(drawn(1.0), drawn(9.0))


def one_step_to_a_terminal_shift_is_no_number() -> bool:
    """Stretching a single level to its terminal value divides zero by zero."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.02)
    scheduler.set_timesteps(1)
    return not scheduler.sigmas.isfinite().all()


def pixart_has_no_lora_loader() -> bool:
    """Neither its pipeline nor its transformer."""
    return not hasattr(diffusers.PixArtSigmaPipeline, "load_lora_weights") and not hasattr(
        diffusers.PixArtTransformer2DModel, "load_lora_adapter"
    )


@dataclass(frozen=True)
class Fault:
    """One fault, which `persists` shows, and the field of the row that works around it, if one does."""

    persists: Callable[[], bool]
    kinds: tuple[str, ...]
    field: str | None


FAULTS = (
    Fault(chroma_checkpoints_without_its_mask, ("ChromaPipeline",), "checkpointing"),
    Fault(hidream_experts_pass_no_gradient, ("HiDreamImagePipeline",), "train_modules"),
    Fault(hidream_draws_one_area, ("HiDreamImagePipeline",), "one_area"),
    Fault(z_image_writes_into_the_prompts, ("ZImagePipeline",), None),
    Fault(binning_is_on_by_default, ("SanaPipeline", "PixArtSigmaPipeline"), None),
    Fault(qwen_guides_only_with_a_negative_prompt, ("QwenImagePipeline",), "negative"),
    Fault(one_step_to_a_terminal_shift_is_no_number, ("QwenImagePipeline",), None),
    Fault(pixart_has_no_lora_loader, ("PixArtSigmaPipeline",), None),
)
VERSION = "0.42.1"
"""Of diffusers, at which all of them were seen."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.persists.__name__)
def test_a_fault_that_we_work_around_is_still_there(fault: Fault) -> None:
    said = f"gone with diffusers {diffusers.__version__}, it was there in {VERSION}: {fault.persists.__doc__}"
    assert fault.persists(), said
    for kind in fault.kinds:
        if fault.field is not None:
            assert getattr(ROWS[kind], fault.field) != getattr(Row(licence=""), fault.field)


def test_the_rows_were_tested_with_the_installed_diffusers() -> None:
    assert diffusers.__version__ == TESTED == VERSION, (
        "run make test-generators with this version, then change TESTED in rows.py and VERSION here"
    )
