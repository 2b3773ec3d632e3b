"""Read pixels of stored images, one by one or in batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dataengine.errors import Corrupt, ImageRefused, NotFound
from dataengine.images import decode
from dataengine.records import Image
from storage.workspace import Workspace


def read_pixels(workspace: Workspace, image: Image) -> np.ndarray:
    """The image's pixels, uint8 HWC RGB at native size."""
    return decode(workspace.blobs.get(image.sha256))


class StoredPixels(Sequence[np.ndarray]):
    """The pixels of many images, uint8 HWC, each read when it is asked for."""

    def __init__(self, workspace: Workspace, images: Sequence[Image]) -> None:
        self._workspace, self._images = workspace, images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [read_pixels(self._workspace, image) for image in self._images[index]]
        return read_pixels(self._workspace, self._images[index])


def batches_of_equal_size(images: Iterable[Image], batch: int) -> Iterator[list[Image]]:
    """Batches of images of equal size, at most `batch` long and at most 4 megapixels in all."""
    pending: dict[tuple[int, int], list[Image]] = {}
    for image in images:
        size = (image.height, image.width)
        group = pending.setdefault(size, [])
        group.append(image)
        if len(group) >= min(batch, max(1, 4_194_304 // (size[0] * size[1]))):
            yield pending.pop(size)
    yield from pending.values()


def read_stacked(workspace: Workspace, images: Sequence[Image]) -> np.ndarray:
    """Pixels of images of equal size, uint8 NHWC."""
    return np.stack([read_pixels(workspace, image) for image in images])


def read_readable(
    workspace: Workspace, images: Sequence[Image], unreadable: list[str] | None = None
) -> tuple[list[Image], list[np.ndarray]]:
    """The images whose files can be read, and their pixels, uint8 HWC; the others are named in `unreadable`.

    Without such a list the first image that cannot be read raises `NotFound`, `Corrupt` or `ImageRefused`.
    """
    readable, pixels = [], []
    for image in images:
        try:
            pixels.append(read_pixels(workspace, image))
        except (NotFound, Corrupt, ImageRefused) as error:
            if unreadable is None:
                raise
            unreadable.append(unreadable_name(image, error))
        else:
            readable.append(image)
    return readable, pixels


def unreadable_name(image: Image, error: Exception) -> str:
    """How a list of unreadable images names one, with the reason."""
    return f"{image.id}{f' ({image.origin})' if image.origin else ''}: {error}"
