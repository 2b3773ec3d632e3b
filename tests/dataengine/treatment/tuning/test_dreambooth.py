"""DreamBooth on a tiny pipeline: the instance is learned, then those same layers are treated."""

import numpy as np
import pytest

from dataengine.errors import ConfigRefused
from dataengine.treatment import presets
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.tuning.dreambooth import learn_instance, mix_with_class, treat_instance
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


def test_instance_and_class_weigh_the_same(flux_folder):
    family = load_family(flux_folder)
    images, captions = mix_with_class(
        family, INSTANCE, "a red house", "a house", 8, SMALL["sampling"], seed=0
    )
    assert len(images) == 16 and captions == ["a red house"] * 8 + ["a house"] * 8
    assert np.array_equal(images[3], INSTANCE[0]) and images[8].shape == (32, 32, 3)
    alone, captions = mix_with_class(family, INSTANCE, "a red house", "a house", 0, SMALL["sampling"], seed=0)
    assert len(alone) == 3 and set(captions) == {"a red house"}
    with pytest.raises(ConfigRefused, match="two different prompts"):
        mix_with_class(family, INSTANCE, "a house", "a house", 8, SMALL["sampling"], seed=0)
    with pytest.raises(ConfigRefused, match="0 instance images"):
        mix_with_class(family, [], "a red house", "a house", 8, SMALL["sampling"], seed=0)


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
