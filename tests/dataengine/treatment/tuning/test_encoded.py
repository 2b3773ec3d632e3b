"""Encoded prompts and images on disk: read by row, resumable, of the right inputs and model, in constant
memory."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, Paused
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import crop_and_resize, encode
from dataengine.treatment.tuning.batches import shuffled_rows, used_rows
from dataengine.treatment.tuning.encoded import PIECE, RowOrder, encode_pixels, encode_rows, piece_file
from dataengine.treatment.tuning.trainer import treat
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

TEXTS = [f"{PROMPTS[number % 4]} {number}" for number in range(PIECE + 3)]


class Encoder:
    """Two tensors per text, of different types, that hold its hash; counts what it encodes."""

    def __init__(self, scale=1.0, width=3):
        self.scale, self.width, self.asked = scale, width, []

    def __call__(self, texts):
        self.asked += list(texts)
        numbers = torch.tensor([hash(text) % 9973 for text in texts], dtype=torch.float32)[:, None]
        whole = (self.scale * numbers).expand(-1, self.width)
        return Conditioning({"wide": whole.bfloat16(), "row": numbers.long()})


def test_rows_are_those_of_encoding_in_memory(tmp_path):
    encoder = Encoder()
    stored, whole = encode_rows(tmp_path, TEXTS, encoder), Encoder()(TEXTS)
    index = [PIECE + 2, 0, 5, 5, PIECE - 1]
    for rows in (index, torch.tensor(index)):
        read = stored.rows(rows)
        assert len(stored) == len(TEXTS) and read.tensors.keys() == whole.tensors.keys()
        for name, tensor in read.tensors.items():
            assert tensor.dtype == whole[name].dtype and torch.equal(tensor, whole[name][index])
    some = RowOrder(stored, {100: 3, 7: 0})
    assert torch.equal(some.rows([7, 100])["row"], whole["row"][[0, 3]])


@pytest.mark.parametrize("build", ["flux_folder", "sd_folder"])
def test_prompts_of_a_pipeline_are_read_as_they_were_encoded(build, tmp_path, request):
    family = load_family(request.getfixturevalue(build))
    texts = list(PROMPTS)
    stored, whole = encode_rows(tmp_path, texts, family.encode_prompts), encode(family, texts)
    for name, tensor in stored.rows([2, 1]).tensors.items():
        assert torch.equal(tensor, whole[name][[2, 1]])


def test_images_of_any_size_become_latents(flux_folder, tmp_path):
    family = load_family(flux_folder)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, 40, 3), dtype=np.uint8) for side in (32, 50, 64)]

    def latents(part):
        return encode_pixels(family, (32, 32), 2, part)

    stored = encode_rows(tmp_path, images, latents)
    alone = family.encode_images(crop_and_resize(images[1], (32, 32)))
    assert torch.allclose(stored.rows([1])["latents"], alone, atol=1e-5)


def test_pieces_that_are_there_are_not_encoded_again(tmp_path):
    encode_rows(tmp_path, TEXTS, Encoder())
    again = Encoder()
    encode_rows(tmp_path, TEXTS, again)
    assert again.asked == TEXTS[:1]
    piece_file(tmp_path, 1).write_bytes(b"cut short")
    lost = Encoder()
    stored = encode_rows(tmp_path, TEXTS, lost)
    assert lost.asked == TEXTS[:1] + TEXTS[PIECE:]
    assert torch.equal(stored.rows([PIECE])["row"], Encoder()(TEXTS)["row"][[PIECE]])
    assert not list(tmp_path.glob("*.part")) and len(list(tmp_path.iterdir())) == 2


def test_a_killed_run_keeps_the_pieces_that_it_has_written(tmp_path):
    class Killed(Encoder):
        def __call__(self, texts):
            if len(self.asked) > PIECE:
                raise KeyboardInterrupt
            return super().__call__(texts)

    with pytest.raises(KeyboardInterrupt):
        encode_rows(tmp_path, TEXTS, Killed())
    rest = Encoder()
    encode_rows(tmp_path, TEXTS, rest)
    assert rest.asked == TEXTS[:1] + TEXTS[PIECE:]


@pytest.mark.parametrize("change", ["a text", "another order", "another model", "fewer"])
def test_what_was_encoded_of_other_inputs_or_by_another_model_is_not_used(tmp_path, change):
    encode_rows(tmp_path, TEXTS, Encoder())
    texts, encoder = list(TEXTS), Encoder(scale=2.0 if change == "another model" else 1.0)
    if change == "a text":
        texts[PIECE + 1] = "another"
    elif change == "another order":
        texts.reverse()
    elif change == "fewer":
        texts = texts[: PIECE + 1]
    stored = encode_rows(tmp_path, texts, encoder)
    expected = Encoder(scale=encoder.scale)(texts)
    for name, tensor in stored.rows(range(len(texts))).tensors.items():
        assert torch.equal(tensor, expected[name])


def test_a_disk_that_is_too_small_is_said_before_it_is_full(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000_500)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    encode_rows(tmp_path / "few", TEXTS[:10], Encoder())
    with pytest.raises(ConfigRefused, match=r"encoding 35 more prompts.* GB are free in .*fewer updates"):
        encode_rows(tmp_path / "many", TEXTS, Encoder(width=500))


def test_a_resumed_treatment_encodes_nothing_again_and_a_finished_one_leaves_nothing(flux_folder, tmp_path):
    config = TreatmentConfig(
        updates=2,
        batch=2,
        grad_steps=1,
        checkpoint_every=1,
        sampling=SamplingConfig(steps=2, batch=2),
        lora=LoraSettings(rank=2),
    )
    clean = np.zeros((2, 32, 32, 3), dtype=np.uint8)

    def run(**named):
        family, asked = load_family(flux_folder), []
        stock = family.encode_prompts
        family.encode_prompts = lambda texts: asked.append(len(texts)) or stock(texts)
        treat(config, family, ToyDetector(), PROMPTS, clean, ["a", "b"], None, tmp_path, **named)
        return asked

    with pytest.raises(Paused):
        run(pausing=lambda: True)
    pieces = {file.parent.name for file in (tmp_path / "encoded").rglob(".0*.safetensors")}
    assert pieces == {"prompts", "images", "captions"}
    # One each, by which the model is recognised.
    assert run() == [1, 1]
    assert not (tmp_path / "encoded").exists()


def test_only_prompts_that_the_run_draws_are_encoded_and_more_updates_add_to_them():
    config = TreatmentConfig(updates=3, batch=2, accumulation=2, sampling=SamplingConfig(steps=3))
    drawn = [row for number in range(6) for row in shuffled_rows(50, number * 2, 2, config.seed)]
    used = used_rows(config, 50, processes=1)
    assert used == drawn
    longer = used_rows(config.model_copy(update={"updates": 9}), 50, processes=1)
    assert longer[:12] == used and len(longer) == 36
    assert sorted(used_rows(config, 50, processes=8)) == list(range(50))


def grown(folder, rows, queue):
    """How much the peak of this process's memory grows while `rows` rows of 64 KB are encoded and read."""
    from resource import RUSAGE_SELF, getrusage

    before = getrusage(RUSAGE_SELF).ru_maxrss
    stored = encode_rows(folder, [str(number) for number in range(rows)], Encoder(width=32_000))
    for row in range(0, rows, 7):
        stored.rows([row])
    queue.put((getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024)


def test_memory_does_not_grow_with_their_number(tmp_path):
    context = multiprocessing.get_context("fork")
    queue, found = context.Queue(), []
    for rows in (PIECE, 60 * PIECE):
        child = context.Process(target=grown, args=(tmp_path / str(rows), rows, queue))
        child.start()
        found.append(queue.get(timeout=60))
        child.join()
    # In memory, 60 pieces are 120 MB.
    assert found[1] - found[0] < 30, found
