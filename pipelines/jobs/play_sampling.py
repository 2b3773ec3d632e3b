"""Job: draw an image again from its recorded prompt, seed and settings, and keep every step for a player.

Input: the id of an image that a registered generator drew. Output: x̂0 of every step as PNG, and maps of its
change, of what was abnormal and of what was corrected. Cost: sampling one image, and one decoding per step.
"""

from typing import Any

import numpy as np

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.images import encode_png
from dataengine.masks import quantise
from dataengine.treatment.config import SamplingConfig
from pipelines.detectors.score_dynamics import require_redrawable
from pipelines.generators.draw import open_generator
from pipelines.generators.guided_sampling import FIELDS, open_steering
from pipelines.runtime.context import Context, Result
from pipelines.runtime.images import read_pixels


def play_job(context: Context, args: dict[str, Any]) -> Result:
    """Play an image. Raises `ConfigRefused` for one that cannot be drawn again, or whose generator predicts
    no x̂0."""
    from dataengine.treatment.guided_sampling.playback import play

    with context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(args["image"])
        require_redrawable(image)
        version = catalog.generators.get(str(image.generator_id))
    family = open_generator(context, version)
    steering = open_steering(context, {name: image.settings.get(name) for name in FIELDS}, family)
    sampling = {name: value for name, value in image.settings.items() if name not in FIELDS}
    settings = SamplingConfig.model_validate(
        sampling | {"batch": 1, "height": image.height, "width": image.width}
    )
    seed = int(image.seed or 0)
    steppers = steering.steppers([image.prompt], [seed])
    played, final = play(family, image.prompt, seed, settings, DynamicsConfig(), steppers, context.report)
    stored = read_pixels(context.workspace, image)
    highest = max((float(step.change.max()) for step in played if step.change is not None), default=0.0)
    maps = context.workspace.maps

    def kept(values: np.ndarray | None, scale: float = 1.0) -> str | None:
        if values is None:
            return None
        return str(maps.put_many([quantise((values / scale).astype(np.float32))])[0])

    blobs = context.workspace.blobs.put_many([encode_png(step.clean) for step in played])
    return {
        "image": image.id,
        "difference": float(np.abs(final.astype(np.float32) - stored.astype(np.float32)).mean()),
        "steps": [
            {
                "level": step.level,
                "clean": blob,
                "change": kept(step.change, highest or 1.0),
                "abnormal": kept(step.abnormal),
                "corrected": kept(step.corrected),
                "abnormal_share": None if step.abnormal is None else float(step.abnormal.mean()),
                "corrected_share": None if step.corrected is None else float(step.corrected.mean()),
            }
            for step, blob in zip(played, blobs, strict=True)
        ],
    }
