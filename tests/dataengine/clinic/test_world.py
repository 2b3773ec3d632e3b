"""The drawn world: pure streams, disjoint uses, exact masks, captions that survive both tokenizers."""

import time
from itertools import islice

import numpy as np
import pytest

from dataengine.clinic import flaws, world
from dataengine.clinic.scenes import sample_scene


def test_a_drawing_is_a_pure_function_of_use_and_index() -> None:
    first, again = world.stream("judge")[41], world.stream("judge")[41]
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label_map, again.label_map)
    assert (first.caption, first.flaws) == (again.caption, again.flaws)
    assert first.image.shape == (64, 64, 3) and first.image.dtype == np.uint8
    assert first.label_map.shape == (64, 64) and first.label_map.dtype == np.uint8


FROZEN: dict[str, tuple[list[int], int]] = {
    "hand": ([189, 88, 71], 632),
    "face": ([117, 104, 133], 182),
    "sign": ([83, 126, 142], 640),
    "animal": ([181, 60, 48], 129),
    "mug": ([120, 95, 139], 218),
    "house": ([190, 172, 141], 288),
    "tree": ([208, 162, 98], 443),
}
"""Mean colour and marked pixels of one flawed drawing of each category, in WORLD_VERSION 1."""


def test_the_world_is_the_one_that_the_weights_were_trained_on() -> None:
    """A change of the drawings is a new WORLD_VERSION, with new weights and all tables measured again."""
    assert world.WORLD_VERSION == 1
    for index, (category, (colour, marked)) in enumerate(FROZEN.items()):
        drawing = world.stream("benchmark", flawed=1.0, categories=[category])[index]
        assert np.abs(drawing.image.mean((0, 1)) - colour).max() <= 1
        assert abs(np.count_nonzero(drawing.label_map) - marked) <= 4


def test_small_flaws_lie_on_the_same_scenes() -> None:
    usual, small = (world.stream("validation", 0.5, area=area) for area in (None, (0.01, 0.03)))
    for index in range(30):
        drawing, other = usual[index], small[index]
        assert drawing.caption == other.caption
        assert bool(drawing.flaws) == bool(other.flaws)
        if other.flaws:
            assert 0.01 <= np.count_nonzero(other.label_map) / other.label_map.size <= 0.03
        else:
            assert np.array_equal(drawing.image, other.image)
    with pytest.raises(ValueError, match="wider range"):
        list(islice(world.stream("validation", 1.0, area=(0.9, 0.91)), 1))


def test_uses_share_no_drawing() -> None:
    seen: dict[bytes, str] = {}
    for use in world.USES:
        for drawing in islice(world.stream(use), 25):
            key = drawing.image.tobytes()
            assert seen.setdefault(key, use) == use
    assert len({mix.code for mix in world.USES.values()}) == len(world.USES)


def test_the_clean_twin_shows_the_same_scenes_without_flaws() -> None:
    drawings, twins = world.stream("teacher", flawed=1.0), world.stream("teacher", flawed=0.0)
    for i in range(30):
        flawed, clean = drawings[i], twins[i]
        assert flawed.caption == clean.caption
        assert not clean.label_map.any() and not clean.flaws
        assert np.count_nonzero(flawed.label_map) >= world.MIN_MASK_PIXELS
        visible = np.abs(flawed.image.astype(int) - clean.image).max(-1) > 16
        assert not (visible & (flawed.label_map == 0)).any(), "a visible change lies outside the mask"


@pytest.mark.parametrize("kind", sorted(flaws.CLASSES))
def test_each_kind_of_artifact_carries_its_class(kind: str) -> None:
    category = {"garble": "sign", "flip": "sign", "duplicate": "face", "missing": "face"}.get(kind, "hand")
    rng = np.random.default_rng(3)
    _, label_map = world.draw(sample_scene(rng, category), [kind], rng)
    assert set(np.unique(label_map)) == {0, flaws.CLASSES[kind]}


def test_masks_at_the_border_are_closed_not_eaten() -> None:
    before, after = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    after[0:3, :] = 200
    assert world.changed_pixels(before, after)[:4].all()
    assert not world.changed_pixels(before, after)[5:].any()


def test_rates_and_shares_are_those_of_the_mix() -> None:
    stream = world.stream("previous")
    drawings = [stream[i] for i in range(400)]
    faces = [bool(d.flaws) for d in drawings if d.category in {"hand", "face"}]
    others = [bool(d.flaws) for d in drawings if d.category not in {"hand", "face"}]
    assert np.mean(faces) > 0.8
    assert 0.2 < np.mean(others) < 0.4


def test_evaluation_prompts_are_never_used_for_treatment_or_generation() -> None:
    held_out = {p.text for use in ("evaluation", "benchmark") for p in world.prompts(use, 1400)}
    used = {p.text for use in ("treatment", "generation", "loop") for p in world.prompts(use, 1400)}
    assert held_out and used and not held_out & used


def test_prompts_take_the_categories_in_turn_and_know_what_they_ask() -> None:
    prompts = world.prompts("treatment", 6, ["face", "sign"])
    assert [p.category for p in prompts] == ["face", "sign"] * 3
    assert prompts == world.prompts("treatment", 8, ["face", "sign"])[:6]
    assert all(world.prompt_of(p.text) == p for p in prompts)
    assert world.prompt_of("a portrait of nobody") is None


def test_unknown_uses_and_negative_indices_are_refused() -> None:
    with pytest.raises(KeyError, match="no use 'holiday'"):
        world.stream("holiday")
    with pytest.raises(IndexError):
        world.stream("judge")[-1]


def test_drawing_is_fast_enough_for_training() -> None:
    stream = world.stream("validation")
    began = time.process_time()
    for i in range(60):
        stream[i]
    assert 60 / (time.process_time() - began) >= 150


def test_captions_survive_both_tokenizers() -> None:
    from dataengine.clinic.vocabulary import CLIP_TOKENS, T5_TOKENS, captions, clip_tokenizer, t5_tokenizer

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    texts = captions()
    for text, clip_ids, t5_ids in zip(texts, clip(texts).input_ids, t5(texts).input_ids, strict=True):
        assert clip.decode(clip_ids, skip_special_tokens=True).strip() == text
        assert t5.decode(t5_ids, skip_special_tokens=True).strip() == text
        assert len(clip_ids) <= CLIP_TOKENS and len(t5_ids) <= min(13, T5_TOKENS)
