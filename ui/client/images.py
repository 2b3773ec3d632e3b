"""Images: list, search, read pixels and artifact maps, tag, diagnose."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from ui.client.jobs import Jobs
from ui.client.records import Category, Count, Image, ImageDetail, ImageFilter, Job, as_query, read
from ui.client.transport import ApiError, Transport, an_id

PAGE = 200
MOST_IDS = 1000
"""Ids that fit into an address."""


class Images:
    """The images of the workspace."""

    def __init__(self, transport: Transport, jobs: Jobs) -> None:
        self._http, self._jobs = transport, jobs

    def list(
        self, *, sort: str | None = None, limit: int | None = None, **selection: Unpack[ImageFilter]
    ) -> Iterator[Image]:
        """The images of a filter, at most `limit`, fetched page by page.

        `sort` is uncertainty (the default), max, disagreement, newest (the default of a search) or oldest.
        """
        query, after, left = in_address(selection) | {"sort": sort}, None, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self._http.get("/curate/images", query | {"limit": size, "after": after})
            yield from (read(Image, card) for card in page["cards"])
            after, left = page["after"], None if left is None else left - len(page["cards"])
            if after is None:
                return

    def search(
        self, words: str, *, limit: int | None = None, **selection: Unpack[ImageFilter]
    ) -> Iterator[Image]:
        """The images whose prompt has these words, the newest first: `hand "five fingers" -glove`."""
        selection["search"] = words
        return self.list(limit=limit, **selection)

    def count(self, **selection: Unpack[ImageFilter]) -> Count:
        """How many images a filter selects."""
        return read(Count, self._http.get("/curate/count", in_address(selection)))

    def get(self, image: str) -> ImageDetail:
        """One image with its labels and predictions."""
        return read(ImageDetail, self._http.get(f"/curate/images/{an_id(image)}"))

    def pixels(self, image: str) -> bytes:
        """The image as a file that every browser shows: PNG, JPEG or WebP."""
        return self._http.request("GET", f"/images/{an_id(image)}/pixels").content

    def save(self, image: str, path: str | Path) -> Path:
        """Stream the image's file to `path`."""
        return self._http.download(f"/images/{an_id(image)}/pixels", path)

    def map(self, image: str, detector: str | None = None) -> NDArray[np.uint8]:
        """The artifact map by a detector (default: the champion): uint8 `HW`, 255 for a confidence of 1."""
        params = {"detector": detector}
        return array_of(self._http.request("GET", f"/images/{an_id(image)}/map", params=params))

    def tag(
        self, *, add: Sequence[str] = (), remove: Sequence[str] = (), **selection: Unpack[ImageFilter]
    ) -> int:
        """Add and remove tags of the images of a filter; how many images those are."""
        body = {"chosen": chosen(selection), "add": [*add], "remove": [*remove]}
        return int(self._http.post("/curate/selected/tag", body, repeatable=True)["images"])

    def diagnose(self, *, by: str | None = None, **selection: Unpack[ImageFilter]) -> Job:
        """Have a worker predict the artifact maps of images that the detector `by` (default: the champion)
        has not seen; `jobs.wait` waits for it."""
        body = {"images": as_query(selection), "detector": by}
        return self._jobs.get(self._http.post("/curate/work/diagnose", body)["job"])

    def categories(self, detector: str | None = None) -> Sequence[Category]:
        """The categories with the detector's figures, those with the most artifacts first."""
        found = self._http.get("/curate/categories", {"detector": detector})
        return [read(Category, one) for one in found["categories"]]


def in_address(selection: ImageFilter) -> dict[str, Any]:
    """A selection as query parameters. Raises `ApiError` for more ids than fit."""
    query = as_query(selection)
    if len(query.get("ids", ())) > MOST_IDS:
        raise ApiError(f"at most {MOST_IDS:,} ids fit into one request; ask for them in parts")
    return query


def chosen(selection: ImageFilter) -> dict[str, object]:
    """A selection as the routes take it that work on selected images. Raises `ApiError` for an empty one, so
    that nothing happens to every image by mistake."""
    query = as_query(selection)
    if not query:
        raise ApiError("name the images: by a filter, or by ids=[…]")
    return {"ids": query["ids"]} if query.keys() == {"ids"} else {"images": query}


def array_of(answer: httpx.Response) -> NDArray[np.uint8]:
    """The map or label map in an answer: uint8 `HW`. Raises `ApiError` for one that has another size."""
    shape = int(answer.headers["x-height"]), int(answer.headers["x-width"])
    values = np.frombuffer(answer.content, np.uint8)
    if values.size != shape[0] * shape[1]:
        raise ApiError(f"the server sent {values.size} bytes for a map of {shape[0]} × {shape[1]} pixels")
    return values.reshape(shape).copy()
