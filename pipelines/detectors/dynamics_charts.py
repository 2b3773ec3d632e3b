"""Charts of score dynamics at one point of an image."""

from pathlib import Path

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from pipelines.detectors.score_dynamics import FOLDER, TrajectoryReplayer, require_redrawable
from pipelines.runtime.context import Context, Result
from pipelines.runtime.line_chart import Line, draw_line_chart
from storage.workspace import Workspace


def chart_dynamics(
    context: Context, image_id: str, point: tuple[int, int], config: DynamicsConfig | None = None
) -> Result:
    """Plot an image's dynamics at (x, y) and their median over the image, as `dynamics/IMAGE-X-Y.svg` (Fig.
    4).

    Raises `ConfigRefused` for an image that cannot be regenerated and for a point outside of it.
    """
    from dataengine.diagnosis.dynamics import dynamics_at_point as dynamics_at

    with context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
    require_redrawable(image)
    dynamics, levels = TrajectoryReplayer(context, config or DynamicsConfig()).watch([image])
    at_point, median = dynamics_at(dynamics[0], point, (image.height, image.width))
    lines = [
        Line(f"at {point[0]}, {point[1]}", levels[1:], at_point.tolist()),
        Line("median of the image", levels[1:], median.tolist()),
    ]
    svg = draw_line_chart(lines, "from noise (1) to image (0)", "change of the prediction", falling=True)
    return {
        "image": image_id,
        "point": list(point),
        "levels": levels[1:],
        "here": at_point.tolist(),
        "median": median.tolist(),
        "picture": str(_write_chart(context.workspace, f"{image_id}-{point[0]}-{point[1]}.svg", svg)),
    }


def chart_abnormal_shares(workspace: Workspace, detector_id: str) -> Path:
    """Plot the share of abnormal positions at each step, as `dynamics/DETECTOR.svg` (Fig. 7).

    Raises `ConfigRefused` if this detector has predicted no image yet.
    """
    with workspace.catalog(read_only=True) as catalog:
        abnormal = catalog.detectors.get(detector_id).metrics.get("abnormal", {})
        names = {version.id: version.name for version in catalog.generators.list()}
    if not abnormal:
        raise ConfigRefused("score dynamics have predicted no image yet; run `clinic dynamics`")
    lines = []
    for label, each in abnormal.items():
        generator, _, rest = label.partition(", ")
        lines.append(Line(f"{names.get(generator, generator)}, {rest}", each["levels"], each["shares"]))
    svg = draw_line_chart(lines, "from noise (1) to image (0)", "share of abnormal positions", falling=True)
    return _write_chart(workspace, f"{detector_id}.svg", svg)


def _write_chart(workspace: Workspace, name: str, svg: str) -> Path:
    path = workspace.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(svg)
    return path
