"""Augmentation of training batches (DiffDoctor): dynamic shrink, strong changes for pseudo-labels, flips,
lossy saves.

A batch is images float32 N3HW in [0, 1] and targets float32 NHW in [0, 1]. Geometric changes apply to both.
All random numbers come from the `torch.Generator` (on the CPU) that is passed in.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dataengine.diagnosis.config import AugmentationConfig
from dataengine.images import recompress
from dataengine.records import SampleKind

Padding = Literal["black", "mean", "edge"]
PADDINGS: tuple[Padding, ...] = ("black", "mean", "edge")
FORMATS: tuple[Literal["JPEG", "WEBP"], ...] = ("JPEG", "WEBP")
GREY = (0.299, 0.587, 0.114)
GREY_SHARE = 0.25


def augment(
    images: Tensor,
    targets: Tensor,
    *,
    kinds: Sequence[SampleKind],
    categories: Sequence[str | None],
    max_confidence: Sequence[float],
    config: AugmentationConfig,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """The augmented training batch; the inputs are unchanged.

    `max_confidence`: per image, the highest confidence that the current detector predicts in it.
    """
    images, targets = images.clone(), targets.clone()
    for i, (kind, category, confidence) in enumerate(zip(kinds, categories, max_confidence, strict=True)):
        if category not in config.upright and chance(config.flip, generator):
            images[i], targets[i] = images[i].flip(-1), targets[i].flip(-1)
        if config.translate > 0:
            images[i], targets[i] = translate(images[i], targets[i], config.translate, generator)
        if kind in config.shrink_kinds:
            images[i], targets[i] = dynamic_shrink(
                images[i],
                targets[i],
                confidence,
                threshold=config.shrink_below,
                probability=config.shrink,
                scale=config.shrink_scale,
                generator=generator,
            )
    if config.jitter > 0:
        images = jitter_colours(images, config.jitter, generator)
    pseudo = [i for i, kind in enumerate(kinds) if kind == "pseudo"]
    if pseudo and config.strong > 0:
        images[pseudo], targets[pseudo] = augment_strongly(images[pseudo], targets[pseudo], config, generator)
    for i in range(len(images)) if config.resave > 0 else ():
        if chance(config.resave, generator):
            images[i] = resave(images[i], config.resave_quality, generator)
    return images, targets


def dynamic_shrink(
    image: Tensor,
    target: Tensor,
    max_confidence: float,
    *,
    threshold: float,
    probability: float,
    scale: tuple[float, float],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Shrink and pad back an image with low predicted confidence (DiffDoctor, Sec. 3.2).

    Low confidence over a large area is probably right, so this makes small intricate regions with a probably
    clean label. An image whose `max_confidence` is at or above `threshold` is always returned unchanged.
    Scale, position and padding are sampled uniformly.
    """
    if max_confidence >= threshold or not chance(probability, generator):
        return image, target
    height, width = target.shape
    factor = uniform(*scale, generator)
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    top = integer(height - small[0] + 1, generator)
    left = integer(width - small[1] + 1, generator)
    padding = PADDINGS[integer(len(PADDINGS), generator)]
    return shrink_and_pad(image, target, small, (top, left), padding)


def shrink_and_pad(
    image: Tensor, target: Tensor, size: tuple[int, int], corner: tuple[int, int], padding: Padding
) -> tuple[Tensor, Tensor]:
    """Image 3HW and target HW resized to `size` at `corner` (top, left), padded back to H×W.

    Both are resized alike (bilinear, antialiased). The image is padded with black, its mean colour,
    or its own edge pixels; the target with 0.
    """
    height, width = target.shape
    both = torch.cat([image, target[None]])[None]
    small = F.interpolate(both, size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)
    (top, left), (rows, columns) = corner, size
    around = (left, width - left - columns, top, height - top - rows)
    if padding == "edge":
        canvas = F.pad(small[None, :3], around, mode="replicate")[0]
    else:
        colour = image.mean(dim=(1, 2)) if padding == "mean" else torch.zeros_like(image[:, 0, 0])
        canvas = colour[:, None, None].expand_as(image).clone()
        canvas[:, top : top + rows, left : left + columns] = small[:3]
    return canvas, F.pad(small[3], around)


def augment_strongly(
    images: Tensor, targets: Tensor, config: AugmentationConfig, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Strong augmentation of pseudo-labelled examples, as in UniMatch: colour, grey, blur, CutMix."""
    images = images.clone()
    for i in range(len(images)):
        if chance(config.strong, generator):
            images[i] = colour_jitter(images[i], config.strong_colour, generator)
        if chance(config.strong * GREY_SHARE, generator):
            images[i] = to_grey(images[i])
        if config.strong_blur > 0 and chance(config.strong, generator):
            side = min(images.shape[-2:])
            images[i] = blur(images[i], uniform(0.0, config.strong_blur, generator) * side)
    return cutmix(images, targets, config.strong, generator)


def cutmix(
    images: Tensor, targets: Tensor, probability: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch, label and all (Yun et al. 2019; UniMatch, Sec. 3).

    Rectangles cover 2 % to 40 % of the image at aspect 0.3 to 1/0.3, the ranges of UniMatch.
    """
    mixed, mixed_targets = images.clone(), targets.clone()
    partners = torch.randperm(len(images), generator=generator)
    height, width = targets.shape[-2:]
    for i, partner in enumerate(partners.tolist()):
        if not chance(probability, generator):
            continue
        area, aspect = uniform(0.02, 0.4, generator), uniform(0.3, 1 / 0.3, generator)
        rows = min(height, max(1, round(height * (area * aspect) ** 0.5)))
        columns = min(width, max(1, round(width * (area / aspect) ** 0.5)))
        top, left = integer(height - rows + 1, generator), integer(width - columns + 1, generator)
        window = (slice(top, top + rows), slice(left, left + columns))
        mixed[i][:, window[0], window[1]] = images[partner][:, window[0], window[1]]
        mixed_targets[i][window] = targets[partner][window]
    return mixed, mixed_targets


def colour_jitter(image: Tensor, amount: float, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation of a 3HW image, by factors from 1 ± `amount`, in random order."""
    changes: list[Callable[[Tensor, float], Tensor]] = [
        lambda x, factor: x * factor,
        lambda x, factor: x.mean() + (x - x.mean()) * factor,
        lambda x, factor: torch.lerp(to_grey(x), x, factor),
    ]
    for position in torch.randperm(len(changes), generator=generator).tolist():
        image = changes[position](image, uniform(1 - amount, 1 + amount, generator)).clamp(0, 1)
    return image


def resave(image: Tensor, quality: tuple[int, int], generator: Generator) -> Tensor:
    """A 3HW image as it travels: resized there and back, blurred and noisy, each half of the time and little,
    then saved as JPEG or WebP at a quality within the range. Its size stays, so that its label still fits."""
    height, width = image.shape[-2:]
    if chance(0.5, generator):
        factor = uniform(0.5, 1.0, generator)
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        image = resize(resize(image, small), (height, width))
    if chance(0.5, generator):
        image = blur(image, uniform(0.0, 1.0, generator))
    if chance(0.5, generator):
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        image = image + uniform(0.0, 0.02, generator) * noise
    levels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    low, high = quality
    saved = recompress(
        levels, FORMATS[integer(len(FORMATS), generator)], low + integer(high - low + 1, generator)
    )
    return torch.from_numpy(saved).permute(2, 0, 1).to(image).div(255)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A 3HW image at another size (bilinear, antialiased)."""
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def to_grey(image: Tensor) -> Tensor:
    """The 3HW image without colour (ITU-R 601 luma), still three channels."""
    weights = torch.tensor(GREY, dtype=image.dtype, device=image.device)
    return (image * weights[:, None, None]).sum(dim=0, keepdim=True).expand_as(image)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a 3HW image, `sigma` in pixels, borders replicated; none below 0.1."""
    if sigma < 0.1:
        return image
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image[None], (radius,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=3)
    return F.conv2d(across, kernel[:, :, :, None], groups=3)[0]


def translate(image: Tensor, target: Tensor, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Image 3HW and target HW shifted by up to `share` of the side, the border mirrored in both."""
    height, width = target.shape
    reach = (round(height * share), round(width * share))
    padded = F.pad(
        torch.cat([image, target[None]])[None], (reach[1], reach[1], reach[0], reach[0]), mode="reflect"
    )[0]
    top, left = integer(2 * reach[0] + 1, generator), integer(2 * reach[1] + 1, generator)
    moved = padded[:, top : top + height, left : left + width]
    return moved[:3], moved[3]


def jitter_colours(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Images N3HW with a Gaussian contrast factor and a Gaussian shift per channel, deviation `amount`."""
    count = len(images)
    factor = 1 + amount * torch.randn((count, 1, 1, 1), generator=generator)
    shift = amount * torch.randn((count, 3, 1, 1), generator=generator)
    return (images * factor.to(images.device) + shift.to(images.device)).clamp(0, 1)


def chance(probability: float, generator: Generator) -> bool:
    """Sample True with that probability."""
    return torch.rand((), generator=generator).item() < probability


def uniform(low: float, high: float, generator: Generator) -> float:
    """Sample from U(low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def integer(end: int, generator: Generator) -> int:
    """Sample an integer from 0 … end − 1."""
    return int(torch.randint(end, (), generator=generator))
