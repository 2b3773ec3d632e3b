"""The queue of images that wait for people, and label maps."""

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.masks import check_label_map, pack_label_map
from ui.client.images import array_of, chosen
from ui.client.records import ImageFilter, Sent, Task, read
from ui.client.transport import ApiError, Transport, an_id

FORBIDDEN = 403


class Queue:
    """The images that wait for this account, and sending images to people."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def next(self, *, besides: Sequence[str] = (), prefer: str | None = None) -> Task | None:
        """The image that this account holds or, leased to it now, the next one that waits; None for none.

        `besides` are ids of images to pass over, `prefer` the id of the image that is wanted most.
        """
        found = self._http.get("/annotate/next", {"besides": list(besides), "prefer": prefer})
        return None if found is None else task_of(found)

    def submit(
        self,
        task: Task,
        label_map: ArrayLike | None,
        *,
        seconds: float = 0.0,
        note: str = "",
        regions: Sequence[Mapping[str, Any]] = (),
        key: str = "",
    ) -> int:
        """Answer a task with a label map, uint8 `HW` of the image's size with values of `task.classes`, or
        with None for an image without a flaw; the stored revision.

        `seconds` is the time that the answer took, `key` names the answer: the same one sent twice counts
        once. `regions` say of what is marked with class `value` in `box` (left, top, right, bottom in pixels)
        why it is broken, `reason`, and how much that matters, `importance` from 1 to 100. Raises
        `MaskRefused` for a label map that does not fit.
        """
        leased = {"lease": task.lease, "image": task.image, "revision": task.revision, "seconds": seconds}
        answer: dict[str, Any] = {**leased, **drawn(task, label_map)}
        answer |= {"note": note, "key": key or uuid.uuid4().hex}
        answer |= {"regions": list(map(dict, regions))} if regions else {}
        return int(self._http.post("/annotate/submit", answer, repeatable=True)["revision"])

    def renew(self, *tasks: Task) -> list[str]:
        """Hold tasks for longer; the leases that were lost."""
        leases = [task.lease for task in tasks if task.lease]
        return list(self._http.post("/annotate/renew", {"leases": leases}, repeatable=True)["lost"])

    def release(self, task: Task) -> None:
        """Give an image back unanswered."""
        self._http.post("/annotate/release", {"lease": task.lease}, repeatable=True)

    def skip(self, task: Task, reason: str = "") -> None:
        """Decline an image, which goes to somebody else."""
        self._http.post("/annotate/skip", {"lease": task.lease, "reason": reason})

    def send(
        self,
        *,
        people: Sequence[str] = (),
        annotations_per_image: int = 1,
        priority: float = 0.5,
        at_most: int = 1000,
        **selection: Unpack[ImageFilter],
    ) -> Sent:
        """Queue the images of a filter for people, for all of them if nobody is named."""
        body = {"chosen": chosen(selection), **sending(people, annotations_per_image, priority, at_most)}
        return read(Sent, self._http.post("/curate/selected/send", body, repeatable=True))

    def send_categories(
        self,
        thresholds: Mapping[str, float],
        *,
        people: Sequence[str] = (),
        annotations_per_image: int = 1,
        priority: float = 0.5,
        at_most: int = 1000,
    ) -> int:
        """Queue the images of categories from a confidence on for people, such as `{"hand": 0.4}`; how many
        are new."""
        body = {"thresholds": dict(thresholds)}
        body |= sending(people, annotations_per_image, priority, at_most)
        return int(self._http.post("/curate/ask", body, repeatable=True)["sent"])


class Labels:
    """Label maps: uint8 `HW`, 0 for no artifact, i for the i-th label class."""

    def __init__(self, transport: Transport, queue: Queue) -> None:
        self._http, self._queue = transport, queue

    def classes(self) -> list[str]:
        """The names of the label classes; the i-th has the value i."""
        return list(self._http.get("/curate/choices")["classes"])

    def get(self, image: str, author: str | None = None, revision: int | None = None) -> NDArray[np.uint8]:
        """The label map of an author, the newest unless a revision is named; without an author, that of all
        people who count, merged. Raises `ApiError` where there is none."""
        if author is None:
            return array_of(self._http.request("GET", f"/curate/merged/{an_id(image)}"))
        params = {"author": author, "revision": revision}
        return array_of(self._http.request("GET", f"/curate/labels/{an_id(image)}", params=params))

    def put(
        self,
        image: str,
        label_map: ArrayLike | None,
        *,
        seconds: float = 0.0,
        note: str = "",
        regions: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Store this account's label map of an image, or None for one without a flaw; the stored revision.

        An earlier one becomes the revision before it. Without an earlier one, the image has to wait for this
        account, unless the account is a curator's. `regions` as for `submit`. Raises `ApiError` for a label
        that was reviewed.
        """
        earlier = self._http.get("/annotate/previous", {"image": image})
        task = task_of(earlier) if earlier is not None else self._leased(image)
        return self._queue.submit(task, label_map, seconds=seconds, note=note, regions=regions)

    def _leased(self, image: str) -> Task:
        try:
            self._http.post("/curate/open", {"image": image}, repeatable=True)
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
        task = self._queue.next(prefer=image)
        if task is not None and task.image == image:
            return task
        if task is not None:
            self._queue.release(task)
        raise ApiError(f"image {image} does not wait for this account; ask a curator to send it to you")


def task_of(answer: Mapping[str, Any]) -> Task:
    """A task from what the server tells the annotation page."""
    shown = answer["image"]
    image = {name: shown[name] for name in ("height", "width", "prompt", "category")}
    return read(Task, {**answer, **image, "image": shown["id"]})


def drawn(task: Task, label_map: ArrayLike | None) -> dict[str, Any]:
    """The part of an answer that says what was marked. Raises `MaskRefused`."""
    if label_map is None:
        return {"clean": True}
    checked = check_label_map(label_map, (task.height, task.width), len(task.classes))
    if not checked.any():
        return {"clean": True}
    return {"label_map": base64.b64encode(pack_label_map(checked)).decode()}


def sending(people: Sequence[str], each: int, priority: float, at_most: int) -> dict[str, Any]:
    """How images go to people."""
    return {"people": [*people], "annotations_per_image": each, "priority": priority, "limit": at_most}
