"""DreamBooth on a tiny pipeline: the instance is learned, then those same layers are treated."""

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment import presets
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import generate
from dataengine.treatment.tuning import dreambooth
from dataengine.treatment.tuning.dreambooth import (
    draw_class,
    learn_instance,
    mix_with_class,
    treat_instance,
)
from dataengine.treatment.tuning.encoded import draw_rows
from tests.dataengine.treatment.tiny import ToyDetector

RNG = np.random.default_rng(0)
INSTANCE = [RNG.integers(0, 256, size=(32, 32, 3), dtype=np.uint8) for _ in range(3)]
SMALL = {
    "updates": 3,
    "sampling": SamplingConfig(steps=2, batch=4),
    "grad_steps": 1,
    "lora": LoraSettings(rank=2),
    "learning_rate": 1e-2,
}


def test_instance_and_class_weigh_the_same(flux_folder, tmp_path):
    drawn = list(generate(load_family(flux_folder), ["a house"] * 8, range(8), SMALL["sampling"]))
    images, captions = mix_with_class(INSTANCE, drawn, "a red house", "a house")
    assert len(images) == 16 and captions == ["a red house"] * 8 + ["a house"] * 8
    assert np.array_equal(images[3], INSTANCE[0]) and images[8].shape == (32, 32, 3)
    images, captions = mix_with_class(INSTANCE, drawn[:2], "a red house", "a house")
    assert captions == ["a red house"] * 3 + ["a house"] * 3 and np.array_equal(images[5], drawn[0])
    alone, captions = mix_with_class(INSTANCE, [], "a red house", "a house")
    assert len(alone) == 3 and set(captions) == {"a red house"}


@pytest.mark.parametrize(
    ("images", "prompts", "said"),
    [
        (INSTANCE, ("a house", "a house"), "two different prompts"),
        ([], ("a red house", "a house"), "0 instance images"),
    ],
)
def test_what_cannot_be_learned_is_refused(flux_folder, tmp_path, images, prompts, said):
    with pytest.raises(ConfigRefused, match=said):
        learn_instance(presets.dreambooth(), load_family(flux_folder), images, *prompts, tmp_path)


def test_every_batch_has_one_of_the_instance_and_one_of_its_class():
    rng = torch.Generator().manual_seed(0)
    rows = torch.stack([draw_rows(10, 2, True, rng) for _ in range(60)])
    assert set(rows[:, 0].tolist()) == set(range(5)) and set(rows[:, 1].tolist()) == set(range(5, 10))
    three = draw_rows(10, 3, True, rng)
    assert (three[:2] < 5).all() and (three[2:] >= 5).all()
    plain = torch.stack([draw_rows(10, 2, False, rng) for _ in range(60)])
    assert set(plain[:, 0].tolist()) == set(range(10))
    config = presets.dreambooth()
    assert config.paired and config.batch == 2 and config.sampling.steps == 10


def test_images_of_the_class_are_drawn_once(flux_folder, tmp_path, monkeypatch):
    family = load_family(flux_folder)
    first = draw_class(family, "a house", 3, SMALL["sampling"], 0, tmp_path)
    whole = generate(family, ["a house"] * 3, range(3), SMALL["sampling"])
    assert np.array_equal(np.stack(first), whole)
    (tmp_path / "00001.png").unlink()
    again = draw_class(family, "a house", 3, SMALL["sampling"], 0, tmp_path)
    assert np.array_equal(np.stack(again), whole)
    monkeypatch.setattr(dreambooth, "generate", None)
    assert len(draw_class(family, "a house", 3, SMALL["sampling"], 0, tmp_path)) == 3


def test_the_instance_lora_is_what_is_treated(flux_folder, tmp_path):
    family = load_family(flux_folder)
    treating = presets.diffdoctor(offline=False).model_copy(update=SMALL)
    with pytest.raises(ConfigRefused, match="no instance LoRA"):
        treat_instance(treating, family, ToyDetector(), ["a red house"], tmp_path / "early")
    learning = presets.dreambooth().model_copy(update=SMALL)
    learned = learn_instance(learning, family, INSTANCE, "a red house", "a house", tmp_path / "one", 4)
    assert [set(row) for row in learned.history] == [{"update", "loss", "offline", "grad_norm"}] * 3
    before = {name: weight.detach().clone() for name, weight in family.adapter.parameters().items()}
    treated = treat_instance(treating, family, ToyDetector(), ["a red house", "a house"], tmp_path / "two")
    after = family.adapter.parameters()
    assert list(before) == list(after) and all("pixel" in row for row in treated.history)
    assert any((after[name] != before[name]).any() for name in after)
