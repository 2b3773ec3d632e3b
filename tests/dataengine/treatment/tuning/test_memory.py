"""Running out of memory: one sentence, a resume that needs less, and no third try of what has failed."""

import numpy as np
import pytest
import torch

from dataengine.errors import OutOfMemory
from dataengine.quality.config import GuardConfig
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling import sampler
from dataengine.treatment.tuning import memory, trainer
from dataengine.treatment.tuning.memory import SAVING, fitting, key_of, read_failures, record_failure
from dataengine.treatment.tuning.trainer import LESS, treat
from tests.dataengine.treatment.tiny import PROMPTS, ToyDetector

CONFIG = TreatmentConfig(
    updates=3,
    batch=2,
    grad_steps=1,
    offline=None,
    sampling=SamplingConfig(steps=1, batch=4),
    lora=LoraSettings(rank=2),
    checkpoint_every=1,
)


@pytest.fixture
def free(monkeypatch):
    """How much memory is free."""
    amount = {"bytes": 1000}
    for module in (memory, trainer):
        monkeypatch.setattr(module, "free_memory", lambda device: (amount["bytes"], 2000))
    monkeypatch.setattr(trainer, "advice", lambda config, family: "Take less.")
    return amount


class Full(ToyDetector):
    """Runs out of memory from its update `at` on."""

    def __init__(self, error, at=1):
        super().__init__()
        self.error, self.at, self.asked = error, at, 0

    def confidence(self, images):
        self.asked += 1
        if self.asked >= self.at:
            raise self.error
        return super().confidence(images)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "python"])
def test_a_resume_saves_memory_and_then_says_the_same_sentence(flux_folder, tmp_path, free, error):
    family, told = load_family(flux_folder), []

    def run(detector, config=CONFIG):
        told.clear()
        report = lambda done, total, message="", **figures: told.append(message)  # noqa: E731
        return treat(config, family, detector, PROMPTS, None, [], None, tmp_path, report)

    sentence = "the treatment ran out of memory; its last checkpoint is kept. Take less."
    with pytest.raises(OutOfMemory) as first:
        run(Full(error, at=2))
    assert str(first.value) == sentence and LESS not in told
    family = load_family(flux_folder)
    with pytest.raises(OutOfMemory) as second:
        run(Full(error))
    assert str(second.value) == sentence and told[0] == LESS
    family, untouched = load_family(flux_folder), Full(error)
    with pytest.raises(OutOfMemory, match=f"^{sentence} Nothing of this has changed since"):
        run(untouched)
    assert untouched.asked == 0 and not told
    free["bytes"] = 1200
    assert run(ToyDetector()).updates == 3, "with more memory it goes on where it stood"


def test_settings_that_need_other_memory_are_tried(tmp_path, free):
    assert fitting(CONFIG, "cpu", tmp_path) is CONFIG
    record_failure(CONFIG, 1000, "Too large.", tmp_path / "run")
    lowered = fitting(CONFIG, "cpu", tmp_path / "run")
    assert lowered == CONFIG.model_copy(update=SAVING)
    record_failure(lowered, 1000, "Still too large.", tmp_path / "run")
    with pytest.raises(OutOfMemory, match=r"^Still too large\. Nothing"):
        fitting(CONFIG, "cpu", tmp_path / "run")
    with pytest.raises(OutOfMemory):
        fitting(CONFIG.model_copy(update={"learning_rate": 1e-6, "updates": 9}), "cpu", tmp_path / "run")
    changes = (
        {"batch": 1},
        {"grad_steps": 1, "sampling": SamplingConfig(steps=1, height=16, width=16)},
        {"guard": GuardConfig(prompts=1)},
        {"lora": LoraSettings(rank=1)},
    )
    for change in changes:
        changed = CONFIG.model_copy(update=change)
        assert fitting(changed, "cpu", tmp_path / "run") is changed
    assert len(read_failures(tmp_path / "run")) == 2 and key_of(CONFIG) in read_failures(tmp_path / "run")


@pytest.mark.parametrize("fits", [1, 3])
def test_images_are_drawn_in_batches_that_fit(flux_folder, monkeypatch, fits):
    family = load_family(flux_folder)
    texts, seeds = [PROMPTS[number % 4] for number in range(5)], list(range(5))
    whole = sampler.generate(family, texts, seeds, CONFIG.sampling)
    stock, sizes = family.decode, []

    def decode(latents):
        sizes.append(len(latents))
        if len(latents) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return stock(latents)

    monkeypatch.setattr(family, "decode", decode)
    drawn = sampler.generate(family, texts, seeds, CONFIG.sampling)
    assert sizes == ([4, 2, 1, 1, 1, 1, 1] if fits == 1 else [4, 2, 2, 1])
    assert np.abs(drawn.astype(int) - whole.astype(int)).max() <= 1


def test_one_image_that_does_not_fit_is_an_error(flux_folder, monkeypatch):
    family = load_family(flux_folder)

    def decode(latents):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(family, "decode", decode)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.generate(family, list(PROMPTS), [0, 1, 2, 3], CONFIG.sampling)
