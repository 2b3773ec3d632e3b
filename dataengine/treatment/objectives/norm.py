"""NormGuard (arXiv 2606.27771): treatment inflates the norm of the velocity, and a hinge holds it.

Only the abstract was read: the penalty acts where ‖v_θ‖ exceeds ‖v_ref‖, and adds to any loss on velocities.
That it is linear in the logarithm of their ratio is ours.
"""

import torch
from torch import Tensor

from dataengine.errors import InputRefused


def log_norm_ratio(output: Tensor, reference: Tensor) -> Tensor:
    """log(‖v‖ / ‖v_ref‖) of each image, shape (N,), for outputs NCHW. Raises `InputRefused` for a norm of
    zero."""
    norms, references = (each.float().flatten(1).norm(dim=1) for each in (output, reference))
    if not (bool((norms > 0).all()) and bool((references > 0).all())):
        raise InputRefused(
            "a prediction of the generator has a norm of zero, so that its growth cannot be measured; check "
            "that its weights were loaded, or set norm and guard.norm to null"
        )
    return torch.log(norms / references)


def norm_hinge(ratio: Tensor, margin: float) -> Tensor:
    """max(0, log ‖v‖/‖v_ref‖ − margin), averaged over the images: nothing as long as norms have not grown."""
    return (ratio - margin).clamp(min=0).mean()
