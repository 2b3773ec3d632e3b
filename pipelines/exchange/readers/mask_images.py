"""Label maps from mask images as people see them; the one reader of masks of every format and command.

1. Palette. Its colours decide, never the order in which a program wrote them. Indices are class numbers only
   if the palette tells classes apart: index 0 is black or transparent, every used index has a colour of its
   own, and the colours are not greys or shades of one colour. If they are not Pascal VOC's, a remark says so.
2. Opacity. Where parts are transparent and the rest is of one colour, what is opaque is marked; otherwise
   transparent pixels are background.
3. Grey levels. 0 with 1, or with one level from 128 on: one class. Nothing above 127: class numbers. Black
   and white with soft edges, or changed by lossy compression: from the middle on, with a remark. Anything
   else, such as areas of several greys, class numbers beside a border of 255, or a photograph, is refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import ImageRefused, MaskRefused
from dataengine.images import ImageLayers, decode_layers, stored_size
from dataengine.masks import MAX_CLASS, LabelMap, Mask

MIDDLE = 128
NEAR = 16
"""Lossy black and white lie within this distance of 0 and 255."""
ONE_COLOUR = 32
"""Largest difference within a channel of what counts as one colour."""
TWO_VALUED = 0.5
"""Share of pixels that are black or white in a mask with soft edges."""
UNEVEN = 8
"""Largest difference of neighbours within one area after lossy compression."""
FLAT = 0.01
"""Share of the marked pixels that may lie in even areas of a level between black and white."""
ROWS = 256
"""Rows whose levels are counted at a time."""
SOFT = "masks that are not exactly black and white were read from the middle on (128 of 255)"
NUMBERED = "indices of palettes were read as class numbers, each palette's first colour as the background"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskImage:
    """A mask as read, and a remark where that is not obvious."""

    label_map: LabelMap
    remark: str = ""


def read_mask(data: bytes, one_class: int | None, size: tuple[int, int]) -> MaskImage:
    """The label map of a mask image of `size` (height, width). Raises `MaskRefused` with the reason.

    A mask of one class marks `one_class`; without it, all values must be class numbers.
    """
    try:
        shape: tuple[int, ...] = stored_size(data)
        if sorted(shape) == sorted(size):
            layers = decode_layers(data)
            shape = layers.values.shape[:2]
    except ImageRefused as error:
        raise MaskRefused(f"the mask cannot be read: {error}") from None
    if shape != size:
        raise MaskRefused(f"the mask is {shape} (height, width), its image is {size}")
    if layers.alpha is not None and one_class is None:
        raise MaskRefused("the mask is transparent in parts; save its class numbers opaque")
    if layers.palette is not None and _are_class_numbers(layers):
        numbers = _on_black(layers.values, layers.alpha)
        clear = numbers.max() < 2 or _is_voc(layers)
        return MaskImage(label_map=_numbers(numbers, one_class), remark="" if clear else NUMBERED)
    if layers.alpha is not None and one_class and (ink := _ink(layers)) is not None:
        soft = bool(((layers.alpha > NEAR) & (layers.alpha < 255 - NEAR)).any())
        return MaskImage(label_map=_one(ink, one_class), remark=SOFT if soft else "")
    levels, exact = _levels(layers)
    if exact and int(levels.max()) <= MAX_CLASS:
        return MaskImage(label_map=_numbers(levels, one_class))
    if one_class is None:
        raise MaskRefused(f"the mask contains the value {levels.max()}; expected class numbers")
    marked, soft = _two_valued(levels, exact)
    return MaskImage(label_map=_one(marked, one_class), remark=SOFT if soft else "")


def _one(mask: Mask, one_class: int) -> LabelMap:
    return np.where(mask, one_class, 0).astype(np.uint8)


def _numbers(values: NDArray[np.uint8], one_class: int | None) -> LabelMap:
    """Class numbers as they are; 0 and 1 alone are one class."""
    if int(values.max()) > MAX_CLASS:
        raise MaskRefused(
            f"the mask contains the class number {values.max()}, they end at {MAX_CLASS}; set what is to be "
            "ignored to 0"
        )
    return _one(values > 0, one_class) if one_class is not None and values.max() == 1 else values


def _on_black(values: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    return values if alpha is None else np.where(alpha >= MIDDLE, values, 0).astype(values.dtype)


def _colours(layers: ImageLayers) -> NDArray[np.uint8]:
    """`HWC` RGB, or `HW1` grey."""
    values = layers.values if layers.palette is None else layers.palette[layers.values]
    if values.dtype == np.uint16:
        values = _eight_bits(values)
    return values if values.ndim == 3 else values[..., None]


def _eight_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit levels as 8 bits; those of an 8-bit range (class numbers, 0 and 255) as they are."""
    if int(values.max()) <= 255:
        return values.astype(np.uint8)
    return np.rint(values / np.float32(257)).astype(np.uint8)


def _ink(layers: ImageLayers) -> Mask | None:
    """What is opaque, if it is all of one colour; None if colours tell more than opacity.

    Raises `MaskRefused` if it is unclear whether what is opaque or what is transparent is marked.
    """
    assert layers.alpha is not None
    opaque, colours = layers.alpha >= MIDDLE, _colours(layers)
    if not opaque.any():
        if (colours == colours[0, 0]).all() and layers.alpha.max() <= NEAR:
            return opaque
        raise MaskRefused("the mask is transparent everywhere; save it opaque, white on black")
    seen = colours[opaque]
    if (seen.max(axis=0).astype(int) - seen.min(axis=0)).max() > ONE_COLOUR:
        return None
    if opaque[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        raise MaskRefused(
            "the mask is of one colour with transparent holes, so what is marked is unclear; save it opaque, "
            "white on black"
        )
    return opaque


def _used(layers: ImageLayers) -> NDArray[np.intp]:
    """The indices of a palette that are seen."""
    return np.unique(layers.values if layers.alpha is None else layers.values[layers.alpha >= MIDDLE])


def _are_class_numbers(layers: ImageLayers) -> bool:
    """Whether a palette's colours stand for classes; see the module's first rule."""
    assert layers.palette is not None
    used = _used(layers)
    colours = layers.palette[used].astype(int)
    if not len(used) or len(np.unique(colours, axis=0)) < len(used):
        return False
    if layers.alpha is not None and not np.isin(layers.alpha, (0, 255)).all():
        return False
    ground_is_seen = layers.alpha is None or bool(layers.alpha[layers.values == 0].any())
    if ground_is_seen and layers.palette[0].any():
        return False
    if (colours.max(axis=1) - colours.min(axis=1)).max() <= NEAR:
        return False
    return len(used) < 3 or _is_voc(layers) or not _are_shades(colours)


def _are_shades(colours: NDArray[np.int_]) -> bool:
    """Whether colours (`(n, 3)`) lie on one line from black, as those of a quantised soft edge."""
    brightest = colours[colours.sum(axis=1).argmax()]
    share = colours.max(axis=1, keepdims=True) / max(1, brightest.max())
    return bool(np.abs(colours - brightest * share).max() <= NEAR)


def _is_voc(layers: ImageLayers) -> bool:
    """Whether the used indices have Pascal VOC's colours: bits of the index by channel, lowest first."""
    assert layers.palette is not None
    used = _used(layers)
    bits = sum(
        (((used[:, None] >> np.arange(3)) >> 3 * place & 1) << 7 - place for place in range(3)),
        start=np.zeros((len(used), 3), dtype=np.intp),
    )
    return bool((layers.palette[used] == bits).all())


def _levels(layers: ImageLayers) -> tuple[NDArray[np.uint8], bool]:
    """Grey levels on black, and whether they are as they were drawn. Raises `MaskRefused` for colours."""
    colours = _on_black(_colours(layers), None if layers.alpha is None else layers.alpha[..., None])
    exact = not layers.lossy and (layers.values.dtype == np.uint8 or int(layers.values.max()) <= 255)
    if layers.palette is not None:
        used = np.unique(layers.values)
        exact = exact and bool((layers.palette[used] == used[:, None]).all())
    if colours.shape[2] == 1:
        return colours[..., 0], exact
    uneven = (colours.max(axis=2) - colours.min(axis=2)).max()
    if uneven == 0 or (uneven <= ONE_COLOUR and not exact):
        return colours[..., 1], exact
    if layers.palette is not None and (levels := _of_one_colour(colours)) is not None:
        return levels, exact
    raise MaskRefused(
        "the mask has colours; save it white on black, or as a grey or palette image of class numbers"
    )


def _of_one_colour(colours: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The brightness, scaled to 255, of what is drawn in shades of one colour on black; else None."""
    used = np.unique(colours.reshape(-1, 3), axis=0).astype(int)
    if used.max(axis=1).min() > NEAR or not _are_shades(used):
        return None
    return np.rint(colours.max(axis=2) * np.float32(255 / used.max())).astype(np.uint8)


def _two_valued(levels: NDArray[np.uint8], exact: bool) -> tuple[Mask, bool]:
    """What is white of a black and white mask, and whether its edges are soft. Raises `MaskRefused`."""
    marked, highest = levels >= MIDDLE, int(levels.max())
    between = sum(
        (np.bincount(levels[row : row + ROWS].ravel(), minlength=256) for row in range(0, len(levels), ROWS)),
        start=np.zeros(256, dtype=np.intp),
    )
    between[[0, highest]] = 0
    if highest == 0 or (highest >= MIDDLE and not between.any()):
        return marked, False
    if highest < MIDDLE:
        raise MaskRefused(
            f"the mask has no white, its brightest value is {highest} of 255; save it as 0 and 255"
        )
    if exact and between[1:NEAR].any() and not between[NEAR:MIDDLE].any():
        numbers = ", ".join(map(str, np.flatnonzero(between)[:3]))
        raise MaskRefused(
            f"the mask has class numbers ({numbers}) beside {highest}; set what is to be ignored to 0, "
            "or give a mask of 0 and 255"
        )
    middle = (levels > (0 if exact else NEAR)) & (levels < 255 - NEAR)
    if middle.mean() > 1 - TWO_VALUED or _even(levels, middle, 0 if exact else UNEVEN) > max(
        1, FLAT * marked.sum()
    ):
        raise MaskRefused(
            "the mask has areas of grey, so it is not black and white; save it as 0 and 255, or class numbers"
        )
    return marked, True


def _even(levels: NDArray[np.uint8], where: Mask, tolerance: int) -> int:
    """The number of pixels of `where` whose eight neighbours have their level, within `tolerance`."""
    if min(levels.shape) < 3:
        return 0
    height, width = levels.shape
    inner = levels[1:-1, 1:-1].astype(np.int16)
    even = where[1:-1, 1:-1].copy()
    for y in range(3):
        for x in range(3):
            even &= np.abs(levels[y : height - 2 + y, x : width - 2 + x] - inner) <= tolerance
    return int(even.sum())
