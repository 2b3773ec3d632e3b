"""HPSv2 on a tiny open_clip model: the score from its parts, the gradient, and what is refused."""

import builtins
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.quality.human_preference import fitted
from dataengine.quality.scorers import PreferenceScorer, open_scorer
from tests.dataengine.treatment import tiny

PROMPTS = ["a red mug over a plain blue background and much more than eight tokens", "a hand"]
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.open_clip(tmp_path_factory.mktemp("hps"))


def test_the_score_is_the_cosine_of_the_models_parts(folder):
    """Against open_clip's towers, asked by hand, on images prepared by PIL and NumPy."""
    import open_clip
    from open_clip.model import CLIP
    from safetensors.torch import load_file

    images = np.random.default_rng(0).integers(0, 256, size=(2, 16, 16, 3), dtype=np.uint8)
    model = CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]).eval()
    model.load_state_dict(load_file(folder / "hps.safetensors"))
    pixels = torch.from_numpy(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    tokens = open_clip.SimpleTokenizer(context_length=8)(PROMPTS)
    with torch.no_grad():
        shown, said = model.visual(pixels).numpy(), model.encode_text(tokens).numpy()
    expected = [
        float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in zip(shown, said, strict=True)
    ]
    scorer = open_scorer(f"hpsv2:{folder}")
    assert scorer.name == "hpsv2" and scorer.score(images, PROMPTS) == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 4) for one in expected}) == 2


def test_the_gradient_reaches_the_pixels(folder):
    scorer = PreferenceScorer(folder)
    images = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scorer.reward(images, PROMPTS).sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


def test_a_wide_image_is_fitted_by_its_longer_side_between_black_bars():
    images = torch.ones(1, 3, 8, 32)
    made = fitted(images, 16) * torch.tensor(STD).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)
    rows = made[0, 0].mean(1).numpy().round(4)
    assert made.shape == (1, 3, 16, 16) and rows.tolist() == [0.0] * 6 + [1.0] * 4 + [0.0] * 6


def test_resizing_is_that_of_the_image_library():
    image = np.random.default_rng(1).integers(0, 256, size=(48, 48, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)) / 255
    made = fitted(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, 16)[0].permute(1, 2, 0).numpy()
    assert np.abs(made * STD + MEAN - resized).max() < 0.006


def test_the_published_torch_file_is_read_as_tensors_alone(folder, tmp_path):
    from safetensors.torch import load_file

    state = load_file(folder / "hps.safetensors")
    images = np.full((1, 16, 16, 3), 90, np.uint8)
    expected = PreferenceScorer(folder).score(images, ["a"])
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": state, "epoch": 3}, file)
    assert PreferenceScorer(tmp_path).score(images, ["a"]) == pytest.approx(expected)
    assert PreferenceScorer(file).score(images, ["a"]) == pytest.approx(expected)

    torch.save({"state_dict": state, "trainer": Exception("code")}, file)
    with pytest.raises(ModelRefused, match="more than tensors"):
        PreferenceScorer(file)


def test_what_is_no_such_model_is_refused(folder, tmp_path):
    with pytest.raises(ModelRefused, match=r"no file or folder .*HPS_v2\.1_compressed"):
        PreferenceScorer("xswu/HPSv2")
    with pytest.raises(ModelRefused, match="one file of weights, and holds none"):
        PreferenceScorer(tmp_path)
    shutil.copytree(folder, tmp_path / "two")
    shutil.copy(folder / "hps.safetensors", tmp_path / "two" / "other.safetensors")
    with pytest.raises(ModelRefused, match=r"holds hps\.safetensors, other\.safetensors"):
        PreferenceScorer(tmp_path / "two")
    config = json.loads((folder / "open_clip_config.json").read_text())
    shutil.copytree(folder, tmp_path / "other")
    written = tmp_path / "other" / "open_clip_config.json"
    for changed, said in (
        ({"vision_cfg": config["model_cfg"]["vision_cfg"]}, "has no model_cfg"),
        (config["model_cfg"] | {"text_cfg": {"hf_model_name": "owner/name"}}, "another library"),
        (config["model_cfg"] | {"embed_dim": 24}, "does not hold the weights"),
    ):
        written.write_text(json.dumps({"model_cfg": changed}))
        with pytest.raises(ModelRefused, match=said):
            PreferenceScorer(tmp_path / "other")
    written.write_text("{")
    with pytest.raises(ModelRefused, match="is not JSON"):
        PreferenceScorer(tmp_path / "other")


def test_without_open_clip_the_extra_is_named(folder, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **named):
        if name.startswith("open_clip"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigRefused, match=r"artifact-clinic\[hpsv2\]"):
        PreferenceScorer(folder)
