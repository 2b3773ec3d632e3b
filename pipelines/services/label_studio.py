"""What our web routes for Label Studio may ask for: pre-annotations, pulls, retraining. Torch-free.

Nothing that Label Studio sends is believed beyond ids: tasks are resolved by our image id, projects by what
`clinic push` registered, and nothing is ever fetched from an address in a request.
"""

from typing import Any

from dataengine.errors import ClinicError, InputRefused, NotFound
from dataengine.records import Job, now, threshold_of
from pipelines.exchange.label_studio.tasks import prediction
from storage.workspace import Workspace

RETRAIN_SECONDS = 600.0
"""A request to retrain within this time of the last round's start changes nothing."""
MAX_TASKS = 64


def champion_version(workspace: Workspace) -> str:
    """The model version that our answers carry; "" while there is no champion."""
    from pipelines.exchange.label_studio.tasks import model_version

    with workspace.catalog(read_only=True) as catalog:
        return model_version(catalog.detectors.champion())


def predictions_for(workspace: Workspace, tasks: list[Any]) -> list[dict[str, Any]]:
    """The champion's answer for each task, in order; an empty one for a task that is none of ours.

    Kept maps are used; others are asked of the inference service. Raises `InputRefused` for more than
    `MAX_TASKS` tasks, `ServiceAbsent` when a map is needed and no worker is there to make it.
    """
    if len(tasks) > MAX_TASKS:
        raise InputRefused(f"{len(tasks)} tasks in one request; at most {MAX_TASKS} are answered")
    version = champion_version(workspace)
    empty = {"result": [], "score": 0.0, "model_version": version}
    with workspace.catalog(read_only=True) as catalog:
        champion, classes = catalog.detectors.champion(), catalog.classes.names()
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
            from pipelines.runtime.images import read
            from pipelines.services.inference import find_artifacts

            _, drawn = find_artifacts(workspace, read(workspace, image))
            score = float(drawn.max()) / 255
        size, threshold = (image.height, image.width), threshold_of(champion)
        answers.append(prediction(drawn, size, score, version, classes, threshold))
    return answers


def _id_of(task: Any) -> str | None:
    data = task.get("data") if isinstance(task, dict) else None
    said = data.get("clinic_id") if isinstance(data, dict) else None
    return said if isinstance(said, str) else None


def request_pull(workspace: Workspace, project_id: int) -> Job | None:
    """Ask a worker to pull a project that was pushed from here, unless that waits already.

    Raises `NotFound` for a project that `clinic push` never registered.
    """
    from pipelines.services.jobs import request_job
    from pipelines.services.queue import OPEN

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
    """Ask for a new round like the newest one, and say what comes of it.

    Nothing happens while a round is open (it takes the labels in), or shortly after the last one began.
    """
    from pipelines.services.rounds import start_round

    with workspace.catalog(read_only=True) as catalog:
        rows = sorted(catalog.rounds.list(), key=lambda row: row.created)
    if not rows:
        return "there is no round to repeat yet; begin one with `clinic round`"
    if any(row.state in ("running", "waiting") for row in rows):
        return "a round is open and takes the labels in"
    if rows[-1].created > now() - RETRAIN_SECONDS:
        return "a round began just now; ask again later"
    try:
        return start_round(workspace, rows[-1].recipe, "label studio").id
    except ClinicError as error:
        return str(error)
