"""Images and masks as people hold them: paths, folders, arrays, PIL images; decoded within bounds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from dataengine.bounds import IMAGE_BYTES, check_bytes
from dataengine.errors import ImageRefused, InputRefused, MaskRefused, reason_of
from dataengine.images import ImageLayers, decode, decode_layers
from dataengine.masks import MAX_CLASS

Pixels = NDArray[np.uint8]
"""uint8 HW3, RGB."""

Image = str | Path | Pixels | PilImage.Image
"""One image: a file, an array uint8 HW3, or a PIL image of mode RGB."""

Images = Image | Sequence[Image]
"""Images in a list or an array uint8 NHW3, one image, or a folder, which is searched at any depth."""

Masks = str | Path | Sequence[Any] | NDArray[Any]
"""Masks in a list, or a folder in which each has its image's name, whatever the suffix."""

WHITE = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """An input that is not read yet."""

    name: str
    """A file's path; the position of an array, from 0."""
    given: Image

    def pixels(self) -> Pixels:
        """Decode it. Raises `ImageRefused` with the reason."""
        if isinstance(self.given, str | Path):
            return decode(file_bytes(Path(self.given)))
        if isinstance(self.given, PilImage.Image) and self.given.mode != "RGB":
            raise ImageRefused(
                f"expected a PIL image of mode RGB, got {self.given.mode}; call .convert('RGB') on it"
            )
        array = np.asarray(self.given)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
            raise ImageRefused(f"expected an array of uint8 (H, W, 3), got {array.dtype} {array.shape}")
        return array


def named_images(images: Images) -> list[Named]:
    """The images in their order, a folder's by path; nothing is decoded.

    Hidden files of a folder are left out. Raises `InputRefused` for a path that does not exist, and when
    there is no image at all.
    """
    if isinstance(images, str | Path) and Path(images).is_dir():
        found = [Named(name=str(path), given=path) for path in files_in(Path(images))]
    elif isinstance(images, str | Path | PilImage.Image) or (
        isinstance(images, np.ndarray) and images.ndim == 3
    ):
        found = [_named(0, images)]
    else:
        found = [_named(number, each) for number, each in enumerate(images)]
    if not found:
        raise InputRefused(
            f"there is no image in {images!s:.80}; give files, a folder with images, or arrays"
        )
    return found


class DecodedImages(Sequence[Pixels]):
    """Images that are decoded each time they are needed."""

    def __init__(self, images: Sequence[Named]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [image.pixels() for image in self._images[index]]
        return self._images[index].pixels()


def _named(number: int, image: Image) -> Named:
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise InputRefused(f"{image} is no file; give image files, one folder, or arrays")
        return Named(name=str(image), given=image)
    return Named(name=str(number), given=image)


def files_in(folder: Path) -> list[Path]:
    """The files below a folder by path, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def file_bytes(path: Path) -> bytes:
    """The bytes of an image file. Raises `ImageRefused` if it cannot be read or is too large."""
    try:
        check_bytes(path.stat().st_size, IMAGE_BYTES, "the file", "downscale the image", ImageRefused)
        return path.read_bytes()
    except OSError as error:
        raise ImageRefused(f"cannot be read: {error.strerror or reason_of(error)}") from None


def masks_of(images: Sequence[Named], masks: Masks) -> list[Any]:
    """One mask for each image: by position, or by name from a folder.

    Raises `InputRefused` naming the images without one, and the masks of no image.
    """
    if isinstance(masks, str | Path):
        return _masks_by_name(images, Path(masks))
    if len(masks) != len(images):
        raise InputRefused(
            f"there are {len(images)} images and {len(masks)} masks; give one mask for each image, an empty "
            "one for an image without artifacts"
        )
    return list(masks)


def _masks_by_name(images: Sequence[Named], folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputRefused(f"{folder} is no folder; give the folder of the masks, or a list of them")
    known: dict[str, list[Path]] = {}
    for path in files_in(folder):
        known.setdefault(path.stem, []).append(path)
    stems = [Path(image.name).stem for image in images]
    problems = {
        "images without a mask": [stem for stem in stems if stem not in known],
        "masks of no image": sorted(known.keys() - set(stems)),
        "masks of one name": [stem for stem in set(stems) if len(known.get(stem, ())) > 1],
        "images of one name": sorted({stem for stem in stems if stems.count(stem) > 1}),
    }
    if wrong := [f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names]:
        raise InputRefused(
            f"{folder} does not fit the images: {'; '.join(wrong)}. Each image needs one mask of its own "
            "name, an empty one where it has no artifact"
        )
    return [known[stem][0] for stem in stems]


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")


def target_of(mask: Any, size: tuple[int, ...]) -> NDArray[np.float32]:
    """A mask as a training target, float32 HW in [0, 1].

    Accepted are bool HW, float HW in [0, 1], and uint8 HW of 0 and 255 or of class numbers up to 127, as an
    array or as a lossless grey file. Raises `MaskRefused` for anything else, and for another size than the
    image's.
    """
    array = _grey(decode_layers(file_bytes(Path(mask)))) if isinstance(mask, str | Path) else np.asarray(mask)
    if array.shape != tuple(size):
        raise MaskRefused(f"the mask is {array.shape} (height, width), but its image is {tuple(size)}")
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype == np.uint8 and _is_label(array):
        return (array > 0).astype(np.float32)
    if array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return array.astype(np.float32)
    raise MaskRefused(
        f"a mask of {array.dtype} with values from {array.min()} to {array.max()} is ambiguous: expected "
        f"bool, uint8 of 0 and {WHITE} or of class numbers up to {MAX_CLASS}, or float in [0, 1]"
    )


def _is_label(array: Pixels) -> bool:
    values = np.unique(array)
    return int(values[-1]) <= MAX_CLASS or set(values.tolist()) <= {0, WHITE}


def _grey(layers: ImageLayers) -> NDArray[Any]:
    """The grey levels of a mask's file. Raises `MaskRefused` where they do not say what is marked."""
    plain = layers.palette is None and layers.alpha is None and layers.values.ndim == 2
    if not plain or layers.lossy:
        raise MaskRefused(
            "a mask's file must be grey, opaque and lossless, white on black; `clinic import` reads "
            "palettes, colours and transparency"
        )
    return layers.values
