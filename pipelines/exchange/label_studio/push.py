"""Push to Label Studio: a project with our classes, tasks for the images that wait for people, artifact maps
as predictions.

Pushing is idempotent: a task has our image id, a prediction its model version. A task that was deleted there
is created again while its image waits; a new champion adds its predictions and becomes the project's model
version. Cost: the server's own imports.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from dataengine.errors import InputRefused
from dataengine.images import as_shown
from dataengine.records import (
    DetectorVersion,
    Endpoint,
    Image,
    Report,
    component_threshold_of,
    digest,
    no_report,
)
from pipelines.exchange.label_studio.server import Server
from pipelines.exchange.label_studio.signing import signed_path, signing_secret
from pipelines.exchange.label_studio.tasks import brush_prediction, model_version, task_data
from storage.stores.snapshots import EXTENSIONS
from storage.workspace import Workspace

BATCH = 100
BATCH_BYTES = 24 * 1024 * 1024

Pixels = Literal["upload", "signed", "storage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """The project, the number of new tasks and predictions, and of tasks that already existed."""

    project: int
    url: str
    tasks: int
    predictions: int
    known: int
    model_version: str


def push(
    workspace: Workspace,
    server: Server,
    project: str,
    *,
    round_id: str | None = None,
    limit: int | None = None,
    pixels: Pixels = "upload",
    prefix: str = "",
    hooks: str = "",
    report: Report = no_report,
) -> Pushed:
    """Push the images that wait for people (in one round, or whoever queued them) and the champion's maps.

    `pixels` selects how Label Studio gets the images: uploaded, by signed URLs of our web server below
    `prefix`, or from a storage that it can reach (`prefix` + file name). `hooks`, the URL of our web server
    as seen from Label Studio, registers its webhook and ML backend. Raises as `Server`.
    """
    if pixels != "upload" and not prefix:
        raise InputRefused(f"--pixels {pixels} needs --prefix, the start of the image URLs")
    with workspace.catalog(read_only=True) as catalog:
        classes, champion = catalog.classes.list(), catalog.detectors.champion()
    images, rounds = images_to_push(workspace, round_id, limit)
    if not images:
        where = f" in round {round_id!r}" if round_id else ""
        raise InputRefused(f"no image waits for people{where}; `clinic status` counts those that do")
    home = server.ready_project(project, classes)
    there = _existing_tasks(server, home)
    version = model_version(champion)
    new = [image for image in images if image.id not in there]
    address = _addresses(workspace, server, home.id, pixels, prefix)

    def prepared(batch: list[Image]) -> tuple[list[dict[str, Any]], int]:
        made = _predictions(workspace, batch, champion)
        tasks = [
            {
                "data": task_data(image, url, round=rounds[image.id]),
                "predictions": [made[image.id]] if image.id in made else [],
            }
            for image, url in zip(batch, address(batch), strict=True)
        ]
        return tasks, len(made)

    done = predictions = inline = 0
    with ThreadPoolExecutor(1) as pool:
        # The next tasks are prepared while the server imports the previous ones.
        batches = list(_batches(new))
        waiting = pool.submit(prepared, batches[0]) if batches else None
        for number in range(len(batches)):
            report(done, len(images), "pushing tasks")
            assert waiting
            tasks, made_now = waiting.result()
            waiting = pool.submit(prepared, batches[number + 1]) if number + 1 < len(batches) else None
            server.add_tasks(home.id, tasks)
            inline += made_now
            done += len(tasks)
    outdated = [i for i in images if i.id in there and not _has_version(there[i.id], version)]
    for batch in _batches(outdated):
        report(done, len(images), "pushing predictions")
        made = _predictions(workspace, batch, champion)
        if made:
            server.add_predictions(home.id, [one | {"task": there[key]["id"]} for key, one in made.items()])
        predictions += len(made)
        done += len(batch)
    # A project without a model version adopts that of the predictions sent with its tasks.
    settled = version if inline and not home.model_version else home.model_version
    # The server refuses a version that no prediction has.
    held = inline or predictions or any(_has_version(task, version) for task in there.values())
    if version and held and settled != version:
        server.set_model_version(home.id, version)
    _register_project(workspace, server, home)
    if hooks:
        register_hooks(workspace, server, home.id, hooks)
    report(len(images), len(images), "pushed")
    return Pushed(
        project=home.id,
        url=f"{server.url}/projects/{home.id}",
        tasks=len(new),
        predictions=inline + predictions,
        known=len(images) - len(new),
        model_version=version,
    )


def _existing_tasks(server: Server, project: Any) -> dict[str, dict[str, Any]]:
    """The project's tasks by our image id."""
    if project.task_number == 0:
        return {}
    return {
        task["data"]["clinic_id"]: task
        for task in server.tasks(project.id)
        if isinstance(task.get("data"), dict) and isinstance(task["data"].get("clinic_id"), str)
    }


def images_to_push(
    workspace: Workspace, round_id: str | None, limit: int | None
) -> tuple[list[Image], dict[str, str]]:
    """The images that wait for people, the most informative first, and the round in which each waits."""
    rounds: dict[str, str] = {}
    with workspace.catalog(read_only=True) as catalog:
        for item in catalog.queue.waiting(round_id):
            rounds.setdefault(item.image_id, item.round_id)
        return catalog.images.get_many(list(rounds)[:limit]), rounds


def _has_version(task: dict[str, Any], version: str) -> bool:
    payload = task.get("predictions_model_versions") or ""
    return not version or version in (payload if isinstance(payload, list) else str(payload))


def _predictions(
    workspace: Workspace, images: Sequence[Image], champion: DetectorVersion | None
) -> dict[str, dict[str, Any]]:
    if champion is None:
        return {}
    with workspace.catalog(read_only=True) as catalog:
        answers = catalog.predictions.of(champion.id, [image.id for image in images])
        label = catalog.classes.offered()[0].name
    sizes = {image.id: (image.height, image.width) for image in images}
    with_maps = [one for one in answers if one.map_ref]
    maps = workspace.maps.get_many([one.map_ref for one in with_maps if one.map_ref])
    about = (model_version(champion), label, component_threshold_of(champion))
    return {
        one.image_id: brush_prediction(artifact_map, sizes[one.image_id], one.max, *about)
        for one, artifact_map in zip(with_maps, maps, strict=True)
    }


def _batches(images: Sequence[Image]) -> Iterator[list[Image]]:
    for start in range(0, len(images), BATCH):
        yield list(images[start : start + BATCH])


def _addresses(
    workspace: Workspace, server: Server, project_id: int, pixels: Pixels, prefix: str
) -> Callable[[Sequence[Image]], list[str]]:
    """A function from a batch of images to their URLs."""

    def name(image: Image) -> str:
        return image.id + EXTENSIONS.get(image.media_type, "")

    def uploaded(images: Sequence[Image]) -> list[str]:
        addresses: list[str] = []
        part: list[tuple[str, bytes, str]] = []
        for image in images:
            # What is drawn on there must be what the detector sees here.
            data, media_type = as_shown(workspace.blobs.get(image.sha256), image.media_type)
            part.append((image.id + EXTENSIONS.get(media_type, ""), data, media_type))
            if sum(len(one[1]) for one in part) > BATCH_BYTES:
                addresses += server.upload(project_id, part)
                part = []
        return addresses + (server.upload(project_id, part) if part else [])

    if pixels == "upload":
        return uploaded
    base = prefix.rstrip("/")
    if pixels == "signed":
        key = signing_secret(workspace)
        return lambda images: [base + signed_path(image.id, key, time.time()) for image in images]
    return lambda images: [f"{base}/{name(image)}" for image in images]


def endpoint_id(url: str, project_id: int) -> str:
    """The id under which a pushed project is registered."""
    return f"label-studio-{digest(url, project_id, length=12)}"


def _register_project(workspace: Workspace, server: Server, project: Any) -> None:
    """Register the project, so that only its webhooks trigger a pull."""
    with workspace.catalog() as catalog:
        catalog.endpoints.add(
            Endpoint(
                id=endpoint_id(server.url, project.id),
                kind="label-studio",
                name=project.title,
                location=server.url,
                settings={"project": project.id},
            )
        )
        catalog.commit()


EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")


def register_hooks(workspace: Workspace, server: Server, project_id: int, base: str) -> None:
    """Register our webhook and our ML backend with the project, unless they are already registered."""
    from pipelines.exchange.label_studio.server import translating_errors

    key, address = signing_secret(workspace), f"{base.rstrip('/')}/label-studio"
    with translating_errors(server.url):
        hooks = server.get("webhooks/", project=project_id)
        if not any(one.get("url") == f"{address}/webhook" for one in hooks):
            server.client.webhooks.create(
                url=f"{address}/webhook",
                project=project_id,
                actions=list(EVENTS),
                headers={"X-Clinic-Secret": key},
                send_payload=True,
                send_for_all_actions=False,
            )
        backends = server.get("ml/", project=project_id)
        if not any(one.get("url") == address for one in backends):
            server.client.ml.create(
                url=address,
                project=project_id,
                title="Artifact Clinic",
                auth_method="BASIC_AUTH",
                basic_auth_user="clinic",
                basic_auth_pass=key,
                timeout=60.0,
            )
