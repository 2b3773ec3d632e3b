"""Images and masks as people give them: files, folders, arrays; each refusal says what was expected."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.api.detector import chunks
from dataengine.api.inputs import Named, masks_of, named_images, target_of
from dataengine.errors import ImageRefused, InputRefused, MaskRefused

GREY = np.full((4, 6, 3), 90, dtype=np.uint8)


def save(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_images_come_from_a_folder_a_file_a_list_an_array_or_pil(tmp_path: Path) -> None:
    b, a = save(GREY, tmp_path / "b.png"), save(GREY, tmp_path / "deep" / "a.png")
    save(GREY, tmp_path / ".hidden" / "c.png")
    assert [each.name for each in named_images(tmp_path)] == [str(b), str(a)]
    assert [each.name for each in named_images(str(b))] == [str(b)]
    assert [each.name for each in named_images([b, GREY])] == [str(b), "1"]
    assert [each.name for each in named_images(np.stack([GREY, GREY]))] == ["0", "1"]
    assert len(named_images(GREY)) == len(named_images(Image.fromarray(GREY))) == 1
    assert np.array_equal(named_images(Image.fromarray(GREY))[0].pixels(), GREY)


def test_what_is_no_image_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no file"):
        named_images([tmp_path / "absent.png"])
    with pytest.raises(InputRefused, match="no image"):
        named_images(tmp_path)
    for wrong, said in (
        (GREY.astype(np.float32) / 255, r"uint8 \(H, W, 3\), got float32"),
        (GREY[..., 0], r"got uint8 \(4, 6\)"),
        (np.dstack([GREY, GREY[..., :1]]), r"\(4, 6, 4\)"),
        (Image.fromarray(GREY).convert("RGBA"), "mode RGB, got RGBA"),
    ):
        with pytest.raises(ImageRefused, match=said):
            Named(name="0", given=wrong).pixels()


def test_chunks_bound_memory_and_a_refusal_stands_alone(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    large = np.zeros((3000, 2000, 3), dtype=np.uint8)
    found = [
        [each.name for each, _ in chunk]
        for chunk in chunks(named_images([GREY, GREY, broken, GREY, large, large]), 2)
    ]
    assert found == [["0", "1"], [str(broken)], ["3", "4"], ["5"]]


@pytest.mark.parametrize(
    "mask",
    [
        np.eye(4, dtype=bool),
        np.eye(4, dtype=np.uint8),
        np.eye(4, dtype=np.uint8) * 255,
        np.eye(4, dtype=np.float64),
        np.eye(4, dtype=np.uint8) * 7,
    ],
)
def test_a_mask_is_read_in_its_usual_forms(mask: np.ndarray, tmp_path: Path) -> None:
    target = target_of(mask, (4, 4))
    assert target.dtype == np.float32 and np.array_equal(target, np.eye(4))
    if mask.dtype == np.uint8:
        assert np.array_equal(target_of(save(mask, tmp_path / "m.png"), (4, 4)), np.eye(4))


@pytest.mark.parametrize(
    "mask",
    [
        np.full((4, 4), 200, dtype=np.uint8),
        np.array([[0, 128], [255, 0]], dtype=np.uint8).repeat(2, 0).repeat(2, 1),
        np.full((4, 4), 1.5),
        np.full((4, 4), np.nan),
        np.full((4, 4), -1, dtype=np.int64),
        np.zeros((4, 5), dtype=bool),
    ],
)
def test_an_ambiguous_mask_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(MaskRefused):
        target_of(mask, (4, 4))


def test_a_mask_file_that_does_not_say_what_is_marked_is_refused(tmp_path: Path) -> None:
    grey = np.eye(4, dtype=np.uint8) * 255
    palette = Image.fromarray(grey).convert("P")
    for name, image in {
        "lossy.jpg": Image.fromarray(grey),
        "colour.png": Image.fromarray(np.dstack([grey] * 3)),
        "palette.png": palette,
        "alpha.png": Image.fromarray(np.dstack([grey, grey]), mode="LA"),
    }.items():
        image.save(tmp_path / name)
        with pytest.raises(MaskRefused, match="grey, opaque and lossless"):
            target_of(tmp_path / name, (4, 4))


def test_masks_meet_their_images_by_name_or_not_at_all(tmp_path: Path) -> None:
    images = [save(GREY, tmp_path / "images" / f"{name}.jpg") for name in "abc"]
    for name in "cab":
        save(GREY[..., 0] * 0, tmp_path / "masks" / f"{name}.png")
    named = named_images(images)
    assert [path.stem for path in masks_of(named, tmp_path / "masks")] == ["a", "b", "c"]
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "d.png")
    with pytest.raises(InputRefused, match=r"1 images without a mask \(b\); 1 masks of no image \(d\)"):
        masks_of(named, tmp_path / "masks")
    with pytest.raises(InputRefused, match="3 images and 2 masks"):
        masks_of(named, [GREY[..., 0]] * 2)
    with pytest.raises(InputRefused, match="is no folder"):
        masks_of(named, tmp_path / "absent")
