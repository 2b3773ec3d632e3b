"""SAM-HQ, SAM 2 and SAM 3 by their own classes of transformers: clicks, boxes, words, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dataengine.diagnosis import segmenter as segmenters
from dataengine.diagnosis.segmenter import TYPES, load_segmenter, segmenter_type
from dataengine.errors import InputRefused, ModelRefused
from tests.dataengine.diagnosis.tiny_segmenters import CLICKS, tiny_sam2, tiny_sam3, tiny_sam3_video

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", CLICKS)
def test_every_class_takes_clicks_and_boxes(kind: str, tmp_path: Path) -> None:
    folder = CLICKS[kind](tmp_path)
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    loaded = load_segmenter(folder)
    assert type(loaded.model).__name__ == TYPES[kind].clicks
    score, mask = loaded.segment("one", IMAGE, [(20.0, 30.0, True), (5.0, 5.0, False)])
    assert mask.shape == IMAGE.shape[:2] and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    assert 0 <= score <= 1
    both = loaded.segment("one", IMAGE, [(20.0, 30.0, True)], [5, 5, 40, 40])[1]
    assert both.shape == loaded.segment("one", IMAGE, [], [5, 5, 40, 40])[1].shape == IMAGE.shape[:2]
    assert len(loaded._embeddings) == 1
    with pytest.raises(InputRefused, match="outside"):
        loaded.segment("one", IMAGE, [(97.0, 3.0, True)])


def test_sam_2_gets_the_square_and_the_places_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48×96 pixels are stretched to 64×64, so that x shrinks by 2/3 and y grows by 4/3."""
    loaded = load_segmenter(tiny_sam2(tmp_path))
    seen: dict[str, torch.Tensor] = {}
    forward, embed = loaded.model.forward, loaded.model.get_image_embeddings
    monkeypatch.setattr(loaded.model, "forward", lambda **given: seen.update(given) or forward(**given))
    monkeypatch.setattr(
        loaded.model, "get_image_embeddings", lambda pixels: seen.update(pixels=pixels) or embed(pixels)
    )
    white = np.full((48, 96, 3), 255, np.uint8)
    loaded.segment("white", white, [(96.0, 48.0, True)], [3, 6, 48, 24])
    assert seen["input_points"].tolist() == [[[[64.0, 64.0]]]]
    assert seen["input_boxes"].tolist() == [[[2.0, 8.0, 32.0, 32.0]]]
    assert seen["pixels"].shape == (1, 3, 64, 64)
    assert seen["pixels"][0, :, 5, 60].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, 2.4285714, 2.64], abs=1e-4
    )


def test_a_word_finds_every_object_above_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_segmenter(tiny_sam3(tmp_path))
    forward = loaded.reader.forward

    def answer(**given: torch.Tensor) -> object:
        """Two objects of known place are found, a third is not confident enough."""
        output = forward(**given)
        masks = torch.full((1, 4, 16, 16), -20.0)
        masks[0, 0, :8], masks[0, 1, :, 8:], masks[0, 2] = 20.0, 20.0, 20.0
        output.pred_masks, output.presence_logits = masks, torch.tensor([[20.0]])
        output.pred_logits = torch.tensor([[2.0, 0.0, -3.0, -9.0]])
        asked.append(given["input_ids"])
        return output

    asked: list[torch.Tensor] = []
    monkeypatch.setattr(loaded.reader, "forward", answer)
    score, mask = loaded.segment("one", IMAGE, [], word="sixth finger")
    assert asked[0].shape == (1, 32) and asked[0][0, :3].tolist() == [3, 4, 1]
    assert score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)
    expected = np.zeros((48, 96), np.uint8)
    expected[:24], expected[:, 48:] = 1, 1
    assert (mask != expected).mean() < 0.05 and mask[30:, :40].sum() == 0 and mask[:20].all()
    monkeypatch.setattr(segmenters, "WORD_SCORE", 0.999)
    score, mask = loaded.segment("one", IMAGE, [], word="hand")
    assert score == 0 and not mask.any()


def test_a_published_sam_3_takes_both(tmp_path: Path) -> None:
    loaded = load_segmenter(tiny_sam3_video(tmp_path))
    assert loaded.segment("one", IMAGE, [(3.0, 3.0, True)])[1].shape == (48, 96)
    assert loaded.segment("one", IMAGE, [], word="a hand")[1].shape == (48, 96)
    assert len(loaded._embeddings) == 2
    with pytest.raises(InputRefused, match="not both"):
        loaded.segment("one", IMAGE, [(3.0, 3.0, True)], word="hand")
    with pytest.raises(InputRefused, match="at most 200"):
        loaded.segment("one", IMAGE, [], word="x" * 201)


def test_a_prompt_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no word"):
        load_segmenter(tiny_sam2(tmp_path / "two")).segment("one", IMAGE, [], word="hand")
    with pytest.raises(InputRefused, match="takes a word"):
        load_segmenter(tiny_sam3(tmp_path / "three")).segment("one", IMAGE, [(3.0, 3.0, True)])


def test_a_checkpoint_without_all_weights_is_refused_not_filled_by_chance(tmp_path: Path) -> None:
    folder = tiny_sam3_video(tmp_path, as_published=False)
    with pytest.raises(ModelRefused, match=r"lacks \d+ weights of Sam3TrackerModel"):
        load_segmenter(folder)


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"model_type": "bert"}', '{"model_type": "sam4"}'])
def test_other_folders_are_refused_in_one_sentence(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelRefused) as refused:
        segmenter_type(tmp_path)
    assert "sam2_video" in str(refused.value) or "model_type" in str(refused.value)


def test_a_class_that_transformers_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_sam2(tmp_path)
    monkeypatch.setitem(TYPES, "sam2", segmenters.SegmenterType("Sam2OfTheFuture"))
    with pytest.raises(ModelRefused, match=r"Sam2OfTheFuture, which transformers .* does not have"):
        load_segmenter(folder)
