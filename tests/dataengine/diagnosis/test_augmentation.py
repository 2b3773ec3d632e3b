import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Generator, Tensor

from dataengine.diagnosis import augmentation
from dataengine.diagnosis.augmentation import (
    PADDINGS,
    Padding,
    augment,
    augment_strongly,
    blur,
    colour_jitter,
    cutmix,
    dynamic_shrink,
    resave,
    shrink_and_pad,
    to_grey,
    translate,
)
from dataengine.diagnosis.config import AugmentationConfig

SIDE = 32


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def marked(seed: int, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """An image whose red channel is its own target: whatever moves one must move the other."""
    target = torch.zeros(side, side)
    y, x = (int(v) for v in torch.randint(0, side - 12, (2,), generator=seeded(seed)))
    target[y : y + 12, x : x + 12] = 1
    return torch.stack([target, torch.full_like(target, 0.5), torch.zeros_like(target)]), target


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1.0))
def test_an_image_at_or_above_the_threshold_is_never_shrunk(seed: int, confidence: float) -> None:
    image, target = marked(seed)
    same, same_target = dynamic_shrink(
        image, target, confidence, threshold=0.3, probability=1.0, scale=(0.25, 0.75), generator=seeded(seed)
    )
    assert torch.equal(same, image) and torch.equal(same_target, target)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.29))
def test_below_the_threshold_image_and_label_shrink_together(seed: int, confidence: float) -> None:
    image, target = marked(seed)
    small, small_target = dynamic_shrink(
        image, target, confidence, threshold=0.3, probability=1.0, scale=(0.25, 0.75), generator=seeded(seed)
    )
    assert small.shape == image.shape and small_target.shape == target.shape
    assert torch.equal(small[0][small_target > 0], small_target[small_target > 0])
    share = (small_target.sum() / target.sum()).sqrt().item()
    assert 0.2 <= share <= 0.8


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_padding_to_the_pixel(padding: Padding) -> None:
    image, target = torch.full((3, 8, 8), 0.25), torch.ones(8, 8)
    image[:, :, 4:] = 0.75
    small, small_target = shrink_and_pad(image, target, (4, 2), (3, 5), padding)
    rows, columns = slice(3, 7), slice(5, 7)
    expected = torch.zeros(8, 8)
    expected[rows, columns] = 1
    assert torch.allclose(small_target, expected)
    assert torch.allclose(small[:, rows, 5], torch.tensor(0.25), atol=0.13)
    assert torch.allclose(small[:, rows, 6], torch.tensor(0.75), atol=0.13)
    outside = small[:, expected == 0]
    if padding == "black":
        assert (outside == 0).all()
    elif padding == "mean":
        assert torch.allclose(outside, torch.tensor(0.5))
    else:
        assert torch.equal(small[:, 0, :6], small[:, 3, 5:6].expand(3, 6))
        assert torch.equal(small[:, 7, 7], small[:, 6, 6])


def test_on_black_nothing_but_the_label_is_left_of_the_marked_channel() -> None:
    image, target = marked(11)
    for corner in ((0, 0), (3, 9), (15, 15)):
        small, small_target = shrink_and_pad(image, target, (17, 17), corner, "black")
        assert torch.equal(small[0], small_target) and small_target.sum() > 0


def test_shrink_draws_every_padding_place_and_scale_in_range() -> None:
    image, target = torch.full((3, SIDE, SIDE), 0.6), torch.ones(SIDE, SIDE)
    generator = seeded(1)
    sides, corners, fills = set(), set(), set()
    for _ in range(200):
        small, found = dynamic_shrink(
            image, target, 0.0, threshold=0.3, probability=1.0, scale=(0.25, 0.75), generator=generator
        )
        rows = torch.nonzero(found.sum(1) > 0).flatten()
        columns = torch.nonzero(found.sum(0) > 0).flatten()
        sides.add(len(rows))
        corners.add((int(rows[0]), int(columns[0])))
        fills.add(round(small[0, found == 0].mean().item(), 1))
    assert min(sides) >= 8 and max(sides) <= 24 and len(sides) > 10
    assert len(corners) > 100
    assert fills == {0.0, 0.6}


def test_shrink_happens_with_its_probability() -> None:
    image, target = marked(0)
    generator = seeded(2)
    changed = [
        not torch.equal(
            image,
            dynamic_shrink(
                image, target, 0.0, threshold=0.3, probability=0.5, scale=(0.25, 0.75), generator=generator
            )[0],
        )
        for _ in range(400)
    ]
    assert 0.4 < sum(changed) / 400 < 0.6


def test_writing_is_never_mirrored_and_the_rest_is_with_its_label() -> None:
    image, target = marked(5)
    config = AugmentationConfig(flip=1.0, translate=0, jitter=0, shrink=0, strong=0)
    images, targets = augment(
        torch.stack([image, image]),
        torch.stack([target, target]),
        kinds=["true", "true"],
        categories=["sign", "hand"],
        max_confidence=[0.0, 0.0],
        config=config,
        generator=seeded(),
    )
    assert torch.equal(images[0], image) and torch.equal(targets[0], target)
    assert torch.equal(images[1], image.flip(-1)) and torch.equal(targets[1], target.flip(-1))


def test_shift_moves_both_alike() -> None:
    image, target = marked(3)
    for seed in range(10):
        moved, moved_target = translate(image, target, 0.1, seeded(seed))
        assert torch.equal(moved[0], moved_target) and moved.shape == image.shape


def test_only_pseudo_labels_get_strong_changes() -> None:
    images = torch.rand((4, 3, SIDE, SIDE), generator=seeded(4))
    targets = torch.rand((4, SIDE, SIDE), generator=seeded(5))
    config = AugmentationConfig(flip=0, translate=0, jitter=0, shrink=0, strong=1.0)
    changed, moved = augment(
        images,
        targets,
        kinds=["true", "pseudo", "real", "pseudo"],
        categories=[None] * 4,
        max_confidence=[0.0] * 4,
        config=config,
        generator=seeded(6),
    )
    assert torch.equal(changed[[0, 2]], images[[0, 2]]) and torch.equal(moved[[0, 2]], targets[[0, 2]])
    assert not torch.equal(changed[1], images[1]) and not torch.equal(changed[3], images[3])


def test_kinds_that_may_not_shrink_do_not() -> None:
    image, target = marked(1)
    config = AugmentationConfig(flip=0, translate=0, jitter=0, shrink=1.0, strong=0)
    images, _ = augment(
        torch.stack([image] * 3),
        torch.stack([target] * 3),
        kinds=["true", "real", "previous"],
        categories=[None] * 3,
        max_confidence=[0.0] * 3,
        config=config,
        generator=seeded(),
    )
    assert [torch.equal(found, image) for found in images] == [True, False, True]


def test_cutmix_takes_the_label_with_the_pixels() -> None:
    targets = torch.stack([torch.full((SIDE, SIDE), value) for value in (0.1, 0.5, 0.9)])
    images = targets[:, None].expand(-1, 3, -1, -1).clone()
    mixed, moved = cutmix(images, targets, 1.0, seeded(3))
    assert torch.equal(mixed[:, 0], moved)
    assert any(len(found.unique()) == 2 for found in moved)
    for found, before in zip(moved, targets, strict=True):
        pasted = (found != before).float().mean().item()
        assert pasted <= 0.45


def test_colour_grey_and_blur_do_what_they_say() -> None:
    image = torch.rand((3, SIDE, SIDE), generator=seeded(7))
    plain = to_grey(image)
    assert torch.equal(plain[0], plain[1]) and torch.equal(plain[1], plain[2])
    assert torch.allclose(plain[0], 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2], atol=1e-6)
    assert torch.equal(blur(image, 0.05), image)
    soft = blur(image, 2.0)
    assert soft.shape == image.shape and soft.std() < image.std() / 2
    assert soft.mean().item() == pytest.approx(image.mean().item(), abs=0.02)
    flat = torch.full((3, 8, 8), 0.3)
    assert torch.allclose(blur(flat, 1.0), flat)
    jittered = colour_jitter(image, 0.3, seeded(8))
    assert not torch.equal(jittered, image) and jittered.min() >= 0 and jittered.max() <= 1


def test_the_same_seed_gives_the_same_batch_and_inputs_stay() -> None:
    images = torch.rand((6, 3, SIDE, SIDE), generator=seeded(9))
    targets = (torch.rand((6, SIDE, SIDE), generator=seeded(10)) > 0.5).float()
    kept = images.clone(), targets.clone()

    def once(seed: int) -> tuple[Tensor, Tensor]:
        return augment(
            images,
            targets,
            kinds=["true", "pseudo", "real"] * 2,
            categories=["hand", "sign", None] * 2,
            max_confidence=[0.1] * 6,
            config=AugmentationConfig(shrink=0.5, strong=0.5),
            generator=seeded(seed),
        )

    first, again, other = once(1), once(1), once(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, kept[0]) and torch.equal(targets, kept[1])
    for found in first:
        assert found.min() >= 0 and found.max() <= 1


def test_strong_changes_leave_their_inputs_alone() -> None:
    images, targets = torch.rand((3, 3, 8, 8)), torch.rand((3, 8, 8))
    kept = images.clone(), targets.clone()
    augment_strongly(images, targets, AugmentationConfig(strong=1.0, strong_blur=0.1), seeded())
    assert torch.equal(images, kept[0]) and torch.equal(targets, kept[1])


def test_a_scale_that_is_no_range_is_refused() -> None:
    with pytest.raises(ValueError, match="shrink_scale"):
        AugmentationConfig(shrink_scale=(0.8, 0.2))


def test_saves_with_loss_change_images_of_every_kind_and_no_label() -> None:
    images = blur(torch.rand((3, SIDE, SIDE), generator=seeded(7)), 2.0).expand(3, -1, -1, -1)
    targets = torch.rand((3, SIDE, SIDE), generator=seeded(8))
    config = AugmentationConfig(flip=0, translate=0, jitter=0, resave=1.0)
    saved, same = augment(
        images,
        targets,
        kinds=["true", "real", "previous"],
        categories=[None] * 3,
        max_confidence=[0.0] * 3,
        config=config,
        generator=seeded(9),
    )
    assert torch.equal(same, targets)
    for image, before in zip(saved, images, strict=True):
        change = (image - before).abs()
        assert 0 < change.mean() < 0.1 and image.min() >= 0 and image.max() <= 1
    assert not torch.equal(saved[0], saved[1]), "each image has random numbers of its own"


def test_images_travel_by_resizing_blur_noise_and_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens before the save, seen without its loss, on a checkerboard: resizing and blur grey it."""
    saves: list[tuple[str, int]] = []

    def lossless(pixels: np.ndarray, kind: str, quality: int) -> np.ndarray:
        saves.append((kind, quality))
        return pixels

    monkeypatch.setattr(augmentation, "recompress", lossless)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    board = (0.25 + 0.5 * ((rows + columns) % 2)).expand(3, -1, -1)
    travelled = [resave(board, (40, 95), seeded(seed)) for seed in range(200)]
    assert all(one.shape == board.shape and one.min() >= 0 and one.max() <= 1 for one in travelled)
    contrast = torch.stack([one.std() for one in travelled]) / board.std()
    channels = torch.stack([(one[0] - one[1]).abs().mean() for one in travelled])
    untouched = sum(bool(torch.allclose(one, board, atol=1 / 255)) for one in travelled)
    assert 10 <= untouched <= 45, "an eighth of the images, on average, is only saved"
    assert 0.2 < (contrast < 0.9).float().mean() < 0.9, "resizing and blur take contrast"
    assert 0.3 < (channels > 0.001).float().mean() < 0.7 and channels.max() < 0.05, "noise, half of the time"
    kinds, qualities = [kind for kind, _ in saves], [quality for _, quality in saves]
    assert 60 < kinds.count("JPEG") < 140 and kinds.count("WEBP") == 200 - kinds.count("JPEG")
    assert min(qualities) == 40 and max(qualities) == 95 and abs(np.mean(qualities) - 67.5) < 4


def test_a_lower_quality_loses_more() -> None:
    image = torch.rand((3, SIDE, SIDE), generator=seeded(1))
    losses = []
    for quality in (95, 40, 5):
        same_numbers = [resave(image, (quality, quality), seeded(seed)) for seed in range(8)]
        losses.append(torch.stack([(one - image).abs().mean() for one in same_numbers]).mean().item())
    assert losses == sorted(losses)


@pytest.mark.parametrize("quality", [(0, 50), (60, 40), (10, 101)])
def test_a_quality_out_of_range_is_refused(quality: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="resave_quality"):
        AugmentationConfig(resave_quality=quality)
