"""Label Studio: push, pull, and the services behind our web routes: pre-annotations, pixels, retraining.

Nothing that Label Studio sends is trusted beyond ids: tasks are resolved by our image id, projects by what
`clinic push` registered, and nothing is ever fetched from an address in a request.
"""

import os
from typing import TYPE_CHECKING, Any

from dataengine.errors import ClinicError, InputRefused, NotFound
from dataengine.images import as_shown
from dataengine.records import Job, Report, component_threshold_of, no_report, now
from pipelines.exchange.label_studio import signing
from pipelines.exchange.label_studio.tasks import brush_prediction, model_version
from pipelines.services.inference import find_artifacts
from pipelines.services.jobs import request_job
from pipelines.services.queue import OPEN
from pipelines.services.rounds import start_round
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.exchange.label_studio.pull import Pulled
    from pipelines.exchange.label_studio.push import Pixels, Pushed
    from pipelines.exchange.label_studio.server import Server

RETRAIN_SECONDS = 600.0
"""A request to retrain within this time of the last round's start changes nothing."""
MAX_TASKS = 64


def push_images(
    workspace: Workspace,
    project: str,
    url: str = "",
    token: str = "",
    *,
    round_id: str | None = None,
    limit: int | None = None,
    pixels: "Pixels" = "upload",
    prefix: str = "",
    hooks: str = "",
    report: Report = no_report,
) -> "Pushed":
    """Push the images that wait for labels, with the champion's maps, to a project.

    `url` and `token` default to the environment's. Raises `ConfigRefused` without a token, `InputRefused`,
    `ServiceAbsent`.
    """
    from pipelines.exchange.label_studio.push import push

    return push(
        workspace,
        _server(url, token),
        project,
        round_id=round_id,
        limit=limit,
        pixels=pixels,
        prefix=prefix,
        hooks=hooks,
        report=report,
    )


def pull_labels(
    workspace: Workspace,
    project: str,
    url: str = "",
    token: str = "",
    *,
    partial: bool = False,
    report: Report = no_report,
) -> "Pulled":
    """Bring the labels here in line with a project's annotations; `partial` keeps the rest of those of which
    a region was refused. Raises as `push_images`.
    """
    from pipelines.exchange.label_studio.pull import pull

    return pull(workspace, _server(url, token), project, partial=partial, report=report)


def _server(url: str, token: str) -> "Server":
    from pipelines.exchange.label_studio import server

    return server.Server.connect(url or os.environ.get(server.URL_VARIABLE, ""), server.resolve_token(token))


def shared_secret(workspace: Workspace) -> str:
    """The secret that Label Studio must send with its requests."""
    return signing.signing_secret(workspace)


def signed_pixels(workspace: Workspace, image_id: str, expires: int, signature: str) -> tuple[bytes, str]:
    """The file that a signed address opens, and its media type. Raises `NotFound` for a wrong or expired
    signature.
    """
    image = signing.signed_image(workspace, image_id, expires, signature)
    if not image.media_type.startswith("image/"):
        raise NotFound("this is not an image")
    return as_shown(workspace.blobs.get(image.sha256), image.media_type)


def champion_version(workspace: Workspace) -> str:
    """The model version that our answers carry; "" while there is no champion."""
    with workspace.catalog(read_only=True) as catalog:
        return model_version(catalog.detectors.champion())


def predictions_for(workspace: Workspace, tasks: list[Any]) -> list[dict[str, Any]]:
    """The champion's answer for each task, in order; an empty one for a task that is not ours.

    Kept maps are used; others are asked of the inference service. Raises `InputRefused` for more than
    `MAX_TASKS` tasks, `ServiceAbsent` when a map is needed and no worker is there to make it.
    """
    if len(tasks) > MAX_TASKS:
        raise InputRefused(f"{len(tasks)} tasks in one request; the limit is {MAX_TASKS}")
    version = champion_version(workspace)
    empty = {"result": [], "score": 0.0, "model_version": version}
    with workspace.catalog(read_only=True) as catalog:
        champion, classes = catalog.detectors.champion(), catalog.classes.offered()
        images = {image.id: image for image in catalog.images.get_many(filter(None, map(_id_of, tasks)))}
        known = {one.image_id: one for one in catalog.predictions.of(champion.id, images)} if champion else {}
    answers = []
    for task in tasks:
        image = images.get(_id_of(task) or "")
        if image is None or champion is None:
            answers.append(empty)
            continue
        one = known.get(image.id)
        if one and one.map_ref:
            drawn, score = workspace.maps.get(one.map_ref), one.max
        else:
            from pipelines.runtime.images import read_pixels

            _, drawn = find_artifacts(workspace, read_pixels(workspace, image))
            score = float(drawn.max()) / 255
        size, threshold = (image.height, image.width), component_threshold_of(champion)
        answers.append(brush_prediction(drawn, size, score, version, classes[0].name, threshold))
    return answers


def _id_of(task: Any) -> str | None:
    data = task.get("data") if isinstance(task, dict) else None
    image_id = data.get("clinic_id") if isinstance(data, dict) else None
    return image_id if isinstance(image_id, str) else None


def request_pull(workspace: Workspace, project_id: int) -> Job | None:
    """Queue a pull of a project that was pushed from here, unless one is queued already.

    Raises `NotFound` for a project that `clinic push` never registered.
    """
    with workspace.catalog(read_only=True) as catalog:
        homes = [
            one
            for one in catalog.endpoints.of_kind("label-studio")
            if one.settings.get("project") == project_id
        ]
        waiting = {job.args.get("endpoint") for job in catalog.jobs.list(states=OPEN, kind="pull")}
    if not homes:
        raise NotFound(f"project {project_id} was not pushed from this workspace; use `clinic push` first")
    asked = None
    for home in homes:
        if home.id not in waiting:
            asked = request_job(workspace, "pull", {"endpoint": home.id}, "label studio")
    return asked


def request_retraining(workspace: Workspace) -> str:
    """Start a new round like the newest one. Returns its id, or why none was started.

    No round is started while one is open (it will use the labels), or shortly after the last one started.
    """
    with workspace.catalog(read_only=True) as catalog:
        rows = sorted(catalog.rounds.list(), key=lambda row: row.created)
    if not rows:
        return "there is no round to repeat yet; start one with `clinic round`"
    if any(row.state in ("running", "waiting") for row in rows):
        return "an open round will use the new labels"
    if rows[-1].created > now() - RETRAIN_SECONDS:
        return "a round started recently; try again later"
    try:
        return start_round(workspace, rows[-1].recipe, "label studio").id
    except ClinicError as error:
        return str(error)
