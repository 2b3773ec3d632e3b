"""Region constraint (Focus-N-Fix): changes outside the artifacts of the untreated image."""

import numpy as np
import torch
from torch import Tensor

from dataengine.treatment.config import RegionConfig
from dataengine.treatment.objectives.batch import GeneratedBatch


def region_constraint(images: Tensor, untreated: Tensor, mask: Tensor, form: str) -> Tensor:
    """‖(1 − M) ⊙ (Î_0 − Î)‖ over an image, averaged over the batch; M float NHW in {0, 1}.

    "frobenius" is the paper's norm, not squared; "rms" divides it by √(number of values), which makes it
    independent of the image's size.
    """
    outside = ((1 - mask)[:, None] * (untreated - images)).flatten(1)
    # The norm is not differentiable at zero, where treatment starts.
    norms = (outside.pow(2).sum(1) + 1e-12).sqrt()
    return norms.mean() if form == "frobenius" else norms.mean() / outside.shape[1] ** 0.5


def region_mask(confidence: Tensor, config: RegionConfig) -> Tensor:
    """M float32 NHW in {0, 1}: heatmap → Gaussian → threshold → main connected regions → dilation
    (Focus-N-Fix). A reward's map has no absolute scale: its smoothed maximum is scaled to 1."""
    maps = confidence.detach().float().cpu().numpy()
    return torch.from_numpy(np.stack([_regions(one, config) for one in maps])).to(confidence.device)


def _regions(heatmap: np.ndarray, config: RegionConfig) -> np.ndarray:
    from scipy import ndimage

    side = min(heatmap.shape)
    smooth = ndimage.gaussian_filter(heatmap, config.sigma * side)
    regions = smooth > config.threshold * (1 if config.map == "detector" else smooth.max())
    numbers, count = ndimage.label(regions, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(heatmap.shape, dtype=np.float32)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    areas[0] = 0
    main = (areas >= config.main * areas.max()) & (areas > 0)
    grown = ndimage.distance_transform_edt(~main[numbers]) <= config.dilation * side
    return grown.astype(np.float32)


def region_terms(settings: RegionConfig, batch: GeneratedBatch) -> dict[str, Tensor]:
    """The weighted term of the settings."""
    assert batch.untreated is not None and batch.mask is not None
    constraint = region_constraint(batch.images, batch.untreated, batch.mask, settings.form)
    return {"region": settings.beta * constraint}
