"""The nodes: detect artifacts, provide the detector to detailers, filter by score, guide the sampler."""

from typing import Any

import torch
from torch import Tensor

from .detector import SegmDetector, facts_of, open_detector, with_gradient

CATEGORY = "artifacts"
REFERENCE = 16 * 128 * 128
"""Number of values of FLUX's latents at 1024 × 1024, for which the strengths of guidance are given."""
NO_GRADIENT = 1e-12


def confidence_input(name: str) -> tuple[str, dict[str, Any]]:
    """A slider from 0 to 1, at the detector's operating point."""
    default = round(float(facts_of().get(name, 0.5)), 3)
    return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.005}


class DetectArtifacts:
    """Image → mask at the threshold, map, the highest confidence, and the detector for detailers."""

    RETURN_TYPES = ("MASK", "IMAGE", "FLOAT", "SEGM_DETECTOR")
    RETURN_NAMES = ("mask", "map", "score", "segm_detector")
    FUNCTION = "detect"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "threshold": confidence_input("component")}}

    def detect(self, image: Tensor, threshold: float) -> tuple[Tensor, Tensor, float, SegmDetector]:
        """`mask` is float BHW of 0 and 1, `map` BHWC of equal channels; `score` is of the whole batch."""
        detector = open_detector()
        maps = detector.maps(image)
        score = float(maps.max()) if maps.numel() else 0.0
        shown = maps[..., None].expand(-1, -1, -1, 3).contiguous()
        return (maps >= threshold).float(), shown, score, SegmDetector(detector)


class ArtifactDetectorProvider:
    """The detector as a `SEGM_DETECTOR`, for every detailer of the Impact Pack."""

    RETURN_TYPES = ("SEGM_DETECTOR",)
    FUNCTION = "provide"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def provide(self) -> tuple[SegmDetector]:
        return (SegmDetector(open_detector()),)


class FilterByArtifacts:
    """Splits a batch by the highest confidence of each image."""

    RETURN_TYPES = ("IMAGE", "IMAGE", "INT")
    RETURN_NAMES = ("kept", "rejected", "rejected_count")
    FUNCTION = "split"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "limit": confidence_input("flagged")}}

    def split(self, image: Tensor, limit: float) -> tuple[Any, Any, int]:
        """Images below the limit, and those from it on; an output without an image stops what follows it."""
        flagged = open_detector().maps(image).flatten(1).amax(dim=1) >= limit
        flagged = flagged.to(image.device)
        return _or_blocked(image[~flagged]), _or_blocked(image[flagged]), int(flagged.sum())


class GuideByDetector:
    """Moves the sampler's estimate of the image towards fewer artifacts (after DIAMOND, arXiv 2602.00883)."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "guide"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL",),
                "vae": ("VAE",),
                "strength": ("FLOAT", {"default": 25.0, "min": 0.0, "max": 1000.0, "step": 0.5}),
                "last_strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1000.0, "step": 0.5}),
                "start_percent": ("FLOAT", {"default": 0.2, **share}),
                "end_percent": ("FLOAT", {"default": 1.0, **share}),
            }
        }

    def guide(
        self,
        model: Any,
        vae: Any,
        strength: float,
        last_strength: float,
        start_percent: float,
        end_percent: float,
    ) -> tuple[Any]:
        """The model with a function after its guidance, which moves x̂0 by −λ·g/‖g‖, g the gradient of the
        detector's mean squared confidence through VAE and detector. λ falls quadratically."""
        if not start_percent < end_percent:
            raise ValueError(f"start_percent {start_percent} must be below end_percent {end_percent}")
        detector, network = open_detector(), with_gradient(vae.first_stage_model)
        sampling = model.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in (start_percent, end_percent))

        def move(args: dict[str, Any]) -> Tensor:
            denoised: Tensor = args["denoised"]
            sigma = float(args["sigma"].max())
            if not last <= sigma <= first:
                return denoised
            progress = (first - sigma) / (first - last)
            length = last_strength + (strength - last_strength) * (1 - progress) ** 2
            length *= (denoised[0].numel() / REFERENCE) ** 0.5
            with torch.inference_mode(False), torch.enable_grad():
                weights = next(network.parameters())
                network.to(detector.device)
                clean = denoised.detach().clone().float().to(detector.device).requires_grad_()
                scale, shift = _affine(args["model"].process_latent_out, clean)
                decoded = network.decode((clean * scale + shift).to(weights.dtype))
                images = (decoded.float() / 2 + 0.5).clamp(0, 1)
                loss = detector.confidence(images).square().mean((1, 2)).sum()
                gradient = torch.autograd.grad(loss, clean)[0]
            norms = gradient.flatten(1).norm(dim=1).view(-1, *(1,) * (gradient.ndim - 1))
            moved = torch.where(norms > NO_GRADIENT, length * gradient / norms.clamp(min=NO_GRADIENT), 0)
            return denoised - moved.to(denoised)

        guided = model.clone()
        guided.set_model_sampler_post_cfg_function(move)
        return (guided,)


@torch.no_grad()
def _affine(process: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of ComfyUI's way from a model's latents to its VAE's, as tensors of our own: its
    constants may have been made in inference mode, where no gradient passes them."""
    shift = process(torch.zeros_like(latents)).clone()
    return (process(torch.ones_like(latents)) - shift).clone(), shift


def _or_blocked(images: Tensor) -> Any:
    if len(images):
        return images
    try:
        from comfy_execution.graph_utils import ExecutionBlocker
    except ImportError:
        return images
    return ExecutionBlocker(None)


NODE_CLASS_MAPPINGS = {
    "ArtifactClinicDetect": DetectArtifacts,
    "ArtifactClinicDetectorProvider": ArtifactDetectorProvider,
    "ArtifactClinicFilter": FilterByArtifacts,
    "ArtifactClinicGuide": GuideByDetector,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ArtifactClinicDetect": "Detect artifacts",
    "ArtifactClinicDetectorProvider": "Artifact detector (SEGM)",
    "ArtifactClinicFilter": "Filter by artifact score",
    "ArtifactClinicGuide": "Guide sampler by artifact detector",
}
