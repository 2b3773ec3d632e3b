"""What a class needs, from its settings alone, against the same class with its weights."""

import json
import shutil

import pytest

from dataengine.diagnosis.config import DetectorConfig
from dataengine.errors import ModelRefused
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.own_call.tokens import LengthTokenizer
from dataengine.treatment.tuning.needs import predict_needs
from tests.bench.published import PUBLISHED, write_configs
from tests.dataengine.treatment.families.tiny_pipelines import TINY, save_tiny

DETECTOR = DetectorConfig(
    segformer={
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    size=64,
)


def settings_alone(folder, index):
    """Only JSON remains: of tokenizers nothing, and the index where `index` says so."""
    for file in [*folder.rglob("*.safetensors"), *folder.rglob("tokenizer*/*")]:
        file.unlink()
    if not index:
        (folder / "model_index.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        pytest.param("SanaPipeline", False, marks=pytest.mark.generators),
        ("StableDiffusionPipeline", True),
    ],
)
def test_from_settings_alone(kind, index, tmp_path):
    family = load_family(save_tiny(kind, tmp_path / kind))
    numbers = {
        name: sum(weight.numel() for weight in part.parameters()) for name, part in family.modules().items()
    }
    folder = settings_alone(tmp_path / kind, index)
    whole, small = predict_needs(kind, folder, DETECTOR, sides=(32,))
    # bfloat16 but for the VAE.
    stored = sum(count * (4 if name == "vae" else 2) for name, count in numbers.items())
    assert stored < whole.drawing < whole.diagnosing <= whole.treating
    assert small.precision == "4-bit" and small.drawing < whole.drawing and small.treating < whole.treating
    # What else lies there is the same.
    assert whole.drawing - small.drawing == whole.diagnosing - small.diagnosing
    assert whole.text.startswith("32² bf16: 0.0 GB to draw") and whole.moment in whole.text


def test_what_is_missing_or_of_another_class_is_named(tmp_path):
    folder = settings_alone(save_tiny("PixArtSigmaPipeline", tmp_path / "pixart"), True)
    with pytest.raises(ModelRefused, match="holds the settings of a PixArtSigmaPipeline, and not of a Sana"):
        predict_needs("SanaPipeline", folder, DETECTOR)
    shutil.rmtree(folder / "vae")
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelRefused, match="vae"):
        predict_needs("PixArtSigmaPipeline", folder, DETECTOR)
    with pytest.raises(ModelRefused, match="is no pipeline class"):
        predict_needs("NoPipeline", folder, DETECTOR)


def test_the_published_sizes_name_every_class(tmp_path):
    assert PUBLISHED.keys() == TINY.keys()
    folder = write_configs("FluxPipeline", tmp_path)
    assert json.loads((folder / "text_encoder_2" / "config.json").read_text())["d_model"] == 4096


def test_every_prompt_has_the_length_that_is_asked_for():
    tokenizer = LengthTokenizer(77)
    found = tokenizer(["a", "b"], padding="max_length", max_length=12)
    assert found.input_ids.shape == found.attention_mask.shape == (2, 12) and found.attention_mask.all()
    assert tokenizer("a house on a hill").input_ids.shape == (1, 5)
    chats = [[{"role": "user", "content": "a"}]] * 3
    assert tokenizer.apply_chat_template(chats, tokenize=True, max_length=7).input_ids.shape == (3, 7)
    assert tokenizer.apply_chat_template(chats[0], tokenize=False) == ""
