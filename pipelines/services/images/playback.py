"""Play an image's sampling step by step."""

from typing import Any

from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import Image, Job
from pipelines.detectors.score_dynamics import require_redrawable
from pipelines.services.jobs import request_job
from pipelines.services.queue import OPEN
from storage.workspace import Workspace

PLAY = "play"


def request_playback(workspace: Workspace, image_id: str, actor: str) -> Job:
    """Queue the drawing of an image again, or return the newest job that did or does it. Raises `NotFound`,
    and `ConfigRefused` with the reason where it cannot be drawn again."""
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
        require_redrawable(image)
        require_generator(catalog.generators.get(str(image.generator_id)).removed, image)
        known = [
            job for job in catalog.jobs.list((*OPEN, "succeeded"), PLAY) if job.args["image"] == image.id
        ]
    return known[0] if known else request_job(workspace, PLAY, {"image": image.id}, actor)


def require_generator(removed: float | None, image: Image) -> None:
    """Raises `ConfigRefused` where the image's generator was taken off the lists."""
    if removed is not None:
        raise ConfigRefused(f"the generator of image {image.id} was removed, so it cannot be drawn again")


def playback_of(workspace: Workspace, image_id: str) -> dict[str, Any]:
    """The state of the newest job that plays the image, its error, and its steps; state "" without a job.

    Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
        jobs = [job for job in catalog.jobs.list(kind=PLAY) if job.args["image"] == image.id]
        known = {one.id: one.name for one in catalog.generators.list()}
    job = jobs[0] if jobs else None
    return {
        "image": image.id,
        "prompt": image.prompt,
        "seed": image.seed,
        "generator": known.get(image.generator_id or ""),
        "correction": image.settings.get("correction"),
        "state": job.state if job else "",
        "message": (job.error or job.message) if job else "",
        "progress": job.progress if job else 0.0,
        **(job.result if job and job.state == "succeeded" else {"steps": []}),
    }


def frame_ref(workspace: Workspace, image_id: str, ref: str) -> str:
    """The name of a blob or map of the image's playback. Raises `NotFound`."""
    steps = playback_of(workspace, image_id)["steps"]
    if not any(ref in (step["clean"], step["change"], step["abnormal"], step["corrected"]) for step in steps):
        raise NotFound("this image's playback has no such frame; reload the page")
    return ref
