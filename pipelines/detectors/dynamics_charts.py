"""Charts of score dynamics at one point of an image."""

from pathlib import Path

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from pipelines.detectors.score_dynamics import FOLDER, TrajectoryReplayer, can_be_redrawn
from pipelines.runtime.context import Context, Result
from pipelines.runtime.line_chart import Line, draw_line_chart
from storage.workspace import Workspace


def chart_dynamics(
    context: Context, image_id: str, point: tuple[int, int], config: DynamicsConfig | None = None
) -> Result:
    """Dynamics of an image at (x, y) beside its median, drawn as `dynamics/IMAGE-X-Y.svg` (Fig. 4).

    Raises `ConfigRefused` for an image that cannot be drawn again and for a point outside.
    """
    from dataengine.diagnosis.dynamics import dynamics_at_point as dynamics_at

    with context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
    if not can_be_redrawn(image):
        raise ConfigRefused(f"image {image_id} was not drawn by a generator of this workspace")
    found, levels = TrajectoryReplayer(context, config or DynamicsConfig()).watch([image])
    here, median = dynamics_at(found[0], point, (image.height, image.width))
    lines = [
        Line(f"at {point[0]}, {point[1]}", levels[1:], here.tolist()),
        Line("median of the image", levels[1:], median.tolist()),
    ]
    picture = draw_line_chart(lines, "from noise (1) to image (0)", "change of the prediction", falling=True)
    return {
        "image": image_id,
        "point": list(point),
        "levels": levels[1:],
        "here": here.tolist(),
        "median": median.tolist(),
        "picture": str(_write_chart(context.workspace, f"{image_id}-{point[0]}-{point[1]}.svg", picture)),
    }


def chart_abnormal_shares(workspace: Workspace, detector_id: str) -> Path:
    """The share of abnormal places at each step, as `dynamics/DETECTOR.svg` (Fig. 7).

    Raises `ConfigRefused` while nothing was watched.
    """
    with workspace.catalog(read_only=True) as catalog:
        kept = catalog.detectors.get(detector_id).metrics.get("abnormal", {})
        names = {found.id: found.name for found in catalog.generators.list()}
    if not kept:
        raise ConfigRefused("score dynamics have looked at no image yet; run `clinic dynamics`")
    lines = []
    for label, each in kept.items():
        generator, _, rest = label.partition(", ")
        lines.append(Line(f"{names.get(generator, generator)}, {rest}", each["levels"], each["shares"]))
    picture = draw_line_chart(lines, "from noise (1) to image (0)", "share of abnormal places", falling=True)
    return _write_chart(workspace, f"{detector_id}.svg", picture)


def _write_chart(workspace: Workspace, name: str, picture: str) -> Path:
    path = workspace.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(picture)
    return path
