"""What a pipeline's scheduler says of the noise that its model was trained on; its steps are not used."""

import inspect
from pathlib import Path
from typing import Any

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused
from dataengine.treatment.families.diffusion import Prediction

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
"""Schedulers of flow matching; others of diffusers serve it with `use_flow_sigmas`."""

SHIFTS = (
    "num_train_timesteps",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
    "shift_terminal",
)
"""Settings that say which noise levels belong to a number of steps."""


def check_scheduler(folder: Path, kind: str, prediction: Prediction) -> None:
    """Raise `ModelRefused` unless the scheduler of class `kind` in `folder` has a noise schedule for models
    of that prediction: rectified flow's, or discrete β_t (Ho et al. 2020)."""
    import diffusers

    file, known = folder / "scheduler_config.json", getattr(diffusers, kind, None)
    if known is None:
        raise ModelRefused(f"{folder} is to be opened as a {kind}, which diffusers does not have")
    takes = inspect.signature(known.__init__).parameters
    try:
        settings = dict(read_config(file))
    except (OSError, ValueError, TypeError) as error:
        raise ModelRefused(f"{file} is missing or no JSON; download it again") from error
    if prediction == "flow":
        if kind not in FLOW and not settings.get("use_flow_sigmas"):
            raise ModelRefused(f"{file} is of a {kind}, which has no schedule of flow matching")
    elif "beta_start" not in takes or "snr_shift_scale" in takes or settings.get("use_flow_sigmas"):
        raise ModelRefused(
            f"{file} is of a {kind}, whose noise schedule is not the β_t of a diffusion in discrete steps"
        )


def flow_scheduler(scheduler: Any) -> Any:
    """Plain Euler steps of flow matching with the shift of `scheduler`, which is returned if it is that.

    Raises `ModelRefused` for inverted sigmas: such a model counts its times from the other end.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = scheduler.config
    if config.get("invert_sigmas"):
        raise ModelRefused("this scheduler inverts its sigmas; expected rectified flow from noise at t = 1")
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not config.get("stochastic_sampling"):
        return scheduler
    shift = config.get("shift", config.get("flow_shift", 1.0))
    kept = {name: config[name] for name in SHIFTS if config.get(name) is not None}
    return FlowMatchEulerDiscreteScheduler(**{**kept, "shift": shift})
