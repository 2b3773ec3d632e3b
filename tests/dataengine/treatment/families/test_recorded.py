"""Encoded prompts of every form that pipelines give them, back exactly as they were."""

import pytest
import torch

from dataengine.errors import ModelRefused
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.recorded import Recording


def values(prompt, length):
    """A row of numbers that only this prompt has."""
    return torch.arange(length).float() + len(prompt) * 100


def fixed(prompts):
    """Two calls: sequence, position ids that all share, no mask; and a pooled vector alone."""
    sequence = torch.stack([values(prompt, 6).view(3, 2) for prompt in prompts])
    return [(sequence, torch.arange(6).view(3, 2), None), sequence[:, 0]]


def stacked(prompts):
    """Negative and positive prompts one after another; layers before the batch."""
    rows = torch.stack([values(prompt, 4) for prompt in prompts])
    return [(torch.cat([-rows, rows]), torch.stack([rows, 2 * rows, 3 * rows]))]


def ragged(prompts):
    """Lists of tensors of the prompts' own lengths."""
    return [([values(prompt, 1 + len(prompt)).view(-1, 1) for prompt in prompts], None)]


def padded(prompts):
    """Padded to the longest prompt beside it, with a mask."""
    longest = max(len(prompt) for prompt in prompts)
    rows = torch.zeros(len(prompts), longest, 2)
    mask = torch.zeros(len(prompts), longest)
    for row, prompt in enumerate(prompts):
        rows[row, : len(prompt)] = len(prompt)
        mask[row, : len(prompt)] = 1
    return [(rows, mask)]


def same(one, other):
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one is other is None or torch.equal(one, other)


PROMPTS = ["ab", "abcd", "abc"]


@pytest.mark.parametrize("encode", [fixed, stacked])
def test_a_batch_comes_back_as_it_was(encode):
    recording = Recording(encode)
    kept = recording(PROMPTS)
    assert len(kept) == 3 and not recording.padded
    assert same(recording.replay(kept), encode(PROMPTS))
    assert same(recording.replay(kept.rows([2, 0])), encode([PROMPTS[2], PROMPTS[0]]))


@pytest.mark.parametrize("encode", [fixed, stacked, padded])
def test_batches_join(encode):
    recording = Recording(encode)
    kept = Conditioning.joined([recording(PROMPTS[:1]), recording(PROMPTS[1:])])
    for row, prompt in enumerate(PROMPTS):
        assert same(recording.replay(kept.rows([row])), encode([prompt]))


def test_prompts_of_other_lengths_keep_their_own():
    """An image must not depend on the prompts beside it: each is encoded as if alone."""
    recording = Recording(padded)
    kept = recording(["ab", "abcd", "xy"])
    assert recording.padded and recording.one_by_one
    assert recording.alike(kept) == [0, 1, 0]
    assert same(recording.replay(kept.rows([0, 2])), padded(["ab", "xy"]))


def test_lists_of_unequal_lengths_are_asked_together():
    recording = Recording(ragged)
    kept = recording(PROMPTS)
    assert recording.padded and recording.alike(kept) == [0, 0, 0]
    assert same(recording.replay(kept), ragged(PROMPTS))


def test_prompts_given_one_by_one_on_demand():
    asked = []

    def encode(prompts):
        asked.append(len(prompts))
        return fixed(prompts)

    Recording(encode, one_by_one=True)(PROMPTS)
    assert asked[-3:] == [1, 1, 1]


@pytest.mark.parametrize(
    "encode",
    [
        lambda prompts: ["text"],
        lambda prompts: [torch.zeros(len(prompts), len(prompts))],
        lambda prompts: [torch.zeros(2)] * len(prompts),
        lambda prompts: [{"sequence": torch.zeros(len(prompts), 2)}],
    ],
    ids=["no tensor", "two axes grow", "a call for each", "a dictionary"],
)
def test_other_answers_are_refused(encode):
    with pytest.raises(ModelRefused, match=r"encode_prompt|encoded values"):
        Recording(encode)
