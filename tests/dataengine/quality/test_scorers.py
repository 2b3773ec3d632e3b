"""Image-level scorers on tiny models: the right number, with gradient, from safetensors only."""

import sys

import numpy as np
import pytest
import torch

from dataengine.errors import ConfigRefused, ModelRefused, WorkError
from dataengine.quality.scorers import (
    ClassifierScorer,
    ClipScorer,
    ExternalScorer,
    Preprocessing,
    disagreement,
    gaussian_blur,
    open_scorer,
    saliency,
)
from tests.dataengine.treatment import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, size=(3, 32, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    return tiny.classifier(tmp_path_factory.mktemp("classifier"))


def test_clip_scores_are_those_of_transformers_own_path(clip_folder):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    prompts = tiny.PROMPTS[:3]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(images=list(IMAGES), return_tensors="pt")
    with torch.no_grad():
        answer = model(**pixels, **tokenizer(list(prompts), padding=True, return_tensors="pt"))
    expected = (answer.image_embeds * answer.text_embeds).sum(-1).numpy()
    assert ClipScorer(clip_folder).score(IMAGES, prompts) == pytest.approx(2.5 * expected, abs=0.02)
    picked = ClipScorer(clip_folder, "pickscore").score(IMAGES, prompts)
    assert picked == pytest.approx(float(np.exp(3.0)) * expected, abs=0.2)


def test_a_reward_has_a_gradient_at_the_pixels(clip_folder, classifier_folder):
    for scorer in (ClipScorer(clip_folder), ClassifierScorer(classifier_folder, "violent")):
        images = torch.rand(2, 3, 32, 32, requires_grad=True)
        scores = scorer.reward(images, tiny.PROMPTS[:2])
        scores.sum().backward()
        assert scores.shape == (2,) and images.grad.abs().max() > 0


def test_a_classifier_gives_the_share_of_its_label(classifier_folder):
    images = torch.rand(2, 3, 32, 32)
    calm, violent = (ClassifierScorer(classifier_folder, name) for name in ("calm", "violent"))
    assert torch.allclose(calm.reward(images, []) + violent.reward(images, []), torch.ones(2))
    alone = ClassifierScorer(classifier_folder, "violent", activation="sigmoid").reward(images, [])
    assert not torch.allclose(alone, violent.reward(images, []))


def test_what_does_not_load_is_refused(classifier_folder, tmp_path):
    with pytest.raises(ModelRefused, match="no label 'rude'"):
        ClassifierScorer(classifier_folder, "rude")
    with pytest.raises(ModelRefused, match="does not load as CLIPModel"):
        ClipScorer(tmp_path)


def test_images_are_fitted_as_the_processor_says():
    image = torch.zeros(1, 3, 8, 16)
    image[..., :4] = 1
    cut = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, whole=False)(image)
    squeezed = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, whole=True)(image)
    assert cut.shape == squeezed.shape == (1, 3, 8, 8)
    assert cut.max() == 0 and squeezed[..., 0].min() > 0.9
    assert Preprocessing(None, (0.5,) * 3, (0.5,) * 3, whole=True)(image).min() == -1


def test_saliency_points_at_what_counts():
    class Corner:
        name = "corner"

        def reward(self, images, prompts):
            return images[:, 0, :2, :2].square().sum((1, 2))

    heat = saliency(Corner(), torch.full((2, 3, 6, 6), 0.5), ["", ""])
    assert heat.shape == (2, 6, 6) and torch.all(heat[:, :2, :2] == 1)
    assert heat.sum() == 8


class Weighted:
    """A linear score of image alone: r = Σ w·x, so the integrated gradients are w·(x − b) exactly."""

    name = "weighted"

    def __init__(self, weights):
        self.weights = weights

    def reward(self, images, prompts):
        return (images * self.weights).sum((1, 2, 3))


def test_disagreement_is_what_lowers_the_score():
    images = torch.full((1, 3, 33, 33), 0.5)
    images[0, 1, 8, 8] = images[0, 1, 24, 24] = 1.0
    weights = torch.zeros(3, 33, 33)
    weights[:, :16], weights[:, 16:] = 1.0, -1.0  # what is added below lowers the score
    heat = disagreement(Weighted(weights), images, [""], steps=3, blur=0.05)
    assert heat.shape == (1, 33, 33) and heat.max() == 1 and heat.argmax() == 24 * 33 + 24
    # Around the upper dot the image lies below its blurred self, which lowers the score less than the dot.
    assert heat[0, 8, 8] == 0 and 0 < heat[0, 8, 9] < 0.2
    assert disagreement(Weighted(torch.zeros(3, 33, 33)), images, [""]).max() == 0


def test_integrated_gradients_add_up_to_the_change_of_the_score():
    """Completeness (Sundararajan et al. 2017, Prop. 1), for a score whose gradient changes on the way, seen
    through a score that only falls: the map is then all of it, up to its scale."""

    class Falling:
        name = "falling"

        def reward(self, images, prompts):
            return -images.square().sum((1, 2, 3))

    image = torch.zeros(1, 3, 24, 24)
    image[:, :, 10:14, 10:14] = 1
    blurred = gaussian_blur(image, 0.06 * 24)
    exact = (image.square() - blurred.square()).sum(1)  # ∫ 2(b + t(x−b))(x−b) dt for each pixel
    heat = disagreement(Falling(), image, [""])
    assert torch.allclose(heat, exact.clamp(min=0) / exact.max(), atol=1e-5)


def test_a_blur_keeps_the_mean_of_a_flat_image_and_spreads_a_dot():
    dot = torch.zeros(1, 1, 15, 15)
    dot[..., 7, 7] = 1
    spread = gaussian_blur(dot, 1.5)
    ratio = float(spread[0, 0, 7, 8] / spread[0, 0, 7, 7])
    assert ratio == pytest.approx(np.exp(-1 / (2 * 1.5**2)), abs=1e-5) and spread.sum() == pytest.approx(1)
    assert torch.allclose(gaussian_blur(torch.full((1, 3, 9, 12), 0.3), 2.0), torch.tensor(0.3))


def elsewhere(tmp_path, body):
    script = tmp_path / "score.py"
    script.write_text("import json, sys\nasked = json.load(open(sys.argv[-1]))\n" + body)
    return ExternalScorer("image-reward", [sys.executable, str(script)])


def test_a_scorer_in_another_environment(tmp_path):
    body = "print('loading')\nprint(json.dumps([len(prompt) for prompt in asked['prompts']]))"
    scores = elsewhere(tmp_path, body).score(IMAGES, ["a", "bb", "ccc"])
    assert scores.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('no such model')", "no such model"),
        ("print('not numbers')", "failed"),
        ("print(json.dumps([1.0]))", r"returned \(1,\)"),
        ("print('[NaN, 1, 2]')", "returned"),
    ],
)
def test_a_scorer_that_fails_elsewhere_says_so(tmp_path, body, said):
    with pytest.raises(WorkError, match=said):
        elsewhere(tmp_path, body).score(IMAGES, ["a", "b", "c"])


def test_a_scorer_is_opened_by_its_name(clip_folder, tmp_path, monkeypatch):
    assert open_scorer(f"pickscore:{clip_folder}").name == "pickscore"
    script = tmp_path / "score me.py"
    script.write_text("print('[1, 2, 3]')")
    monkeypatch.setenv("CLINIC_SCORER_IMAGE_REWARD", f"{sys.executable} '{script}'")
    scorer = open_scorer("program:image-reward")
    assert scorer.name == "image-reward"
    assert scorer.score(IMAGES, ["a", "b", "c"]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("program:image-reward", "set CLINIC_SCORER_IMAGE_REWARD"),
        ("program:", "is no scorer"),
        ("rm -rf /", "is no scorer"),
        ("pickscore:", "is no scorer"),
    ],
)
def test_a_run_cannot_say_what_is_executed(named, said, monkeypatch):
    monkeypatch.delenv("CLINIC_SCORER_IMAGE_REWARD", raising=False)
    with pytest.raises(ConfigRefused, match=said):
        open_scorer(named)
