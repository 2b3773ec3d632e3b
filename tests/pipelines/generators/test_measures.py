"""Measures of pairs: figures over prompts, tests by category, alignment by questions, distances."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from PIL import Image as PilImage
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from scipy.stats import ttest_rel
from torchmetrics.functional.image import lpips as lpips_module
from transformers import ResNetConfig, ResNetForImageClassification

from dataengine.curation.config import VqaConfig
from dataengine.images import encode_png
from dataengine.quality.distances import FeatureNetwork
from dataengine.records import Image, Prediction
from dataengine.statistics import paired_t_test
from pipelines.config import MeasuresConfig
from pipelines.generators.comparison import Pair
from pipelines.generators.measures import column_figures, distance_figures, measure_pairs, side_figure
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from tests.fake_workspace import real_picture
from tests.fakes import FakeModels, category_of, with_methods


class Yes:
    """A VQA model that sees the category's word in the question; "unclear" for trees."""

    name = "yes"

    def __init__(self, config: VqaConfig, asked: list[str]) -> None:
        self.config, self.asked = config, asked

    def with_question(self, config: VqaConfig, kept: Any) -> "Yes":
        return Yes(config, self.asked)

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        self.asked.append(self.config.question)
        answer = "other" if "tree" in self.config.question else "yes" if images.mean() > 115 else "no"
        return [(answer, 1.0) for _ in images]


class MeanColour(FeatureNetwork):
    """The mean colour."""

    name = "mean colour"

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, asked: list[str]) -> Context:
    models = with_methods(FakeModels(), open_vqa=lambda location, config, keep: Yes(config, asked))
    return Context(create_workspace(tmp_path / "w"), models)


def pairs_of(context: Context, prompts: Sequence[str]) -> list[Pair]:
    return [
        Pair(
            before=real_picture(context.workspace, prompt, number),
            after=real_picture(context.workspace, prompt, 100 + number),
        )
        for number, prompt in enumerate(prompts)
    ]


def predicted(images: Sequence[Image], values: Sequence[float]) -> list[Prediction]:
    return [
        Prediction(image_id=image.id, detector_id="d", max=value, mean=value / 2, uncertainty=0.0)
        for image, value in zip(images, values, strict=True)
    ]


def measured(context: Context, prompts: Sequence[str], measures: MeasuresConfig) -> dict[str, Any]:
    pairs = pairs_of(context, prompts)
    sides = (
        predicted([pair.before for pair in pairs], [0.8] * len(pairs)),
        predicted([pair.after for pair in pairs], [0.2] * len(pairs)),
    )
    columns = [{"category": category_of(prompt)} for prompt in prompts]
    return measure_pairs(context, pairs, sides, 0.5, measures, columns).figures


def test_alignment_asks_each_prompt_and_leaves_unclear_answers_out(
    context: Context, asked: list[str]
) -> None:
    prompts = ["a hand", "a house", "a tree", "a tree"]
    question = "Is this {prompt}?"
    figures = measured(context, prompts, MeasuresConfig(alignment="m", question=question))
    one = figures["alignment"]
    assert (one["pairs"], one["unknown"]) == (2, 2)
    assert one["before"] in (0, 0.5, 1) and set(asked) == {
        question.replace("{prompt}", text) for text in prompts
    }
    assert "before" not in figures["by_column"]["category"]["tree"]["alignment"]


def test_scorers_and_distances_are_measured_or_said_to_be_missing(context: Context) -> None:
    figures = measured(context, ["a hand", "a face"], MeasuresConfig(scorers=("program:liking",)))
    assert figures["program:liking"]["pairs"] == 2
    assert "setting features" in figures["distances"]["note"]
    images = [pair.before for pair in pairs_of(context, ["a hand", "a face"])]
    few = distance_figures(context, images, images, MeanColour())
    assert few == {
        "note": "FID and KID not measured: got 2 real and 2 generated images; 10 of each are needed"
    }


def test_the_test_pairs_prompts_not_images() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, 12), rng.normal(0.3, 1, 12)
    prompts = [f"p{number // 2}" for number in range(12)]
    found = side_figure((before, after), prompts)
    by_prompt = [values.reshape(6, 2).mean(1) for values in (before, after)]
    assert found["p"] == pytest.approx(ttest_rel(*by_prompt).pvalue)
    assert found["difference"] == pytest.approx((after - before).mean())
    low, high = found["interval"]
    assert low < found["difference"] < high


def test_p_values_by_category_are_corrected_by_holm() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 1, 30)
    after = before + np.repeat([1.0, 0.2, 0.0], 10) + rng.normal(0, 0.5, 30)
    columns = [{"challenge": "abc"[row // 10], "note": str(row)} for row in range(30)]
    prompts = [f"p{row}" for row in range(30)]
    table = column_figures({"score": (before, after)}, prompts, columns)["challenge"]
    raw = sorted(float(ttest_rel(before[k : k + 10], after[k : k + 10]).pvalue) for k in (0, 10, 20))
    holm = np.minimum(1, np.maximum.accumulate(np.array(raw) * (3, 2, 1)))
    assert sorted(one["score"]["p"] for one in table.values()) == pytest.approx(list(holm))
    assert "note" in column_figures({"score": (before, after)}, prompts, columns)
    constant = [{"challenge": "a"}] * 30
    assert column_figures({"score": (before, after)}, prompts, constant) == {}


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [([1.0], [2.0], None), ([1.0, 2.0], [1.0, 2.0], 1.0), ([1.0, 2.0], [2.0, 3.0], 0.0)],
)
def test_the_t_test_of_differences_that_do_not_vary(
    before: list[float], after: list[float], p: float | None
) -> None:
    assert paired_t_test(before, after) == p


@pytest.fixture
def alexnet(tmp_path: Path) -> Iterator[Path]:
    """Torchvision's AlexNet of random weights, as a user would give it for LPIPS."""
    with torch.device("meta"):
        shapes = torchvision.models.alexnet(weights=None).state_dict()
    rng = torch.Generator().manual_seed(0)
    weights = {name: torch.zeros(one.shape) for name, one in shapes.items()}
    for name in (name for name in weights if name.startswith("features")):
        weights[name].normal_(0, 0.05, generator=rng)
    file = tmp_path / "alexnet.safetensors"
    save_file(weights, file)
    yield file
    file.unlink()  # a quarter of a gigabyte


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A tiny image classifier of random weights, as a user would give it for FID and KID."""
    torch.manual_seed(1)
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_labels=2
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def noise(context: Context, prompt: str, seed: int, shift: int = 0) -> Image:
    """A stored image of noise, 64 pixels a side, `shift` brighter."""
    pixels = np.random.default_rng(seed).integers(0, 180, (64, 64, 3)) + shift
    sha256 = context.workspace.blobs.put(encode_png(pixels.astype(np.uint8)))
    return Image(id=f"{prompt}-{seed}-{shift}", sha256=sha256, height=64, width=64, prompt=prompt, seed=seed)


def as_tensor(context: Context, images: Sequence[Image]) -> torch.Tensor:
    """The images' pixels float32 N3HW in [0, 1], read by Pillow."""
    pixels = [PilImage.open(io.BytesIO(context.workspace.blobs.get(one.sha256))) for one in images]
    return torch.from_numpy(np.stack([np.asarray(one) for one in pixels])).permute(0, 3, 1, 2).float() / 255


def lpips_by_hand(
    first: torch.Tensor, second: torch.Tensor, weights: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Zhang et al. 2018, Eq. 1, after each of AlexNet's five ReLUs, by the published weights per channel."""
    published = Path(lpips_module.__file__).parent / "lpips_models" / "alex.pth"
    heads = torch.load(published, map_location="cpu", weights_only=True)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, y = ((values - mean) / std for values in (first, second))
    total = torch.zeros(len(x))
    for depth, (index, stride, padding) in enumerate(
        ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
    ):
        kernel, bias = (weights[f"features.{index}.{name}"] for name in ("weight", "bias"))
        x, y = (F.relu(F.conv2d(each, kernel, bias, stride, padding)) for each in (x, y))
        gap = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)).square()
        total += (gap * heads[f"lin{depth}.model.1.weight"]).sum(1).mean((1, 2))
        if depth < 2:
            x, y = (F.max_pool2d(each, 3, 2) for each in (x, y))
    return total


def test_distances_and_lpips_are_those_of_their_papers(
    context: Context, alexnet: Path, classifier: Path
) -> None:
    """FID, KID, precision and recall in a classifier's features, LPIPS with AlexNet, from files to figures,
    against their formulas."""
    count = 16
    pairs = [
        Pair(before=noise(context, f"p{row}", row), after=noise(context, f"p{row}", 50 + row, shift=40))
        for row in range(count - 1)
    ]
    pairs.append(Pair(before=pairs[0].before, after=pairs[0].before))
    before, after = ([getattr(pair, side) for pair in pairs] for side in ("before", "after"))
    sides = predicted(before, [0.8] * count), predicted(after, [0.2] * count)
    measures = MeasuresConfig(lpips=str(alexnet), features=str(classifier))
    found = measure_pairs(context, pairs, sides, 0.5, measures, drawn=False)

    network = ResNetForImageClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        first, second = (
            network(2 * as_tensor(context, images) - 1, output_hidden_states=True)
            .hidden_states[-1]
            .mean((2, 3))
            for images in (before, after)
        )
    x, y = first.double().numpy(), second.double().numpy()
    distances = found.figures["distances"]
    assert (distances["images"], distances["note"]) == (count, "") and "classifier" in distances["network"]
    root = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    frechet = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert distances["fid"] == pytest.approx(frechet, rel=1e-2) and frechet > 1e-4
    own, other, across = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    inner = (own.sum() - np.trace(own) + other.sum() - np.trace(other)) / (count * (count - 1))
    assert distances["kid"] == pytest.approx(inner - 2 * across.mean(), rel=1e-2, abs=1e-6)
    radius = np.sort(np.linalg.norm(x[:, None] - x[None], axis=-1), axis=1)[:, 3]
    covered = (np.linalg.norm(y[:, None] - x[None], axis=-1) <= radius).any(1)
    assert distances["precision"] == pytest.approx(covered.mean())

    lpips = lpips_by_hand(as_tensor(context, before), as_tensor(context, after), load_file(alexnet))
    assert [row["lpips"] for row in found.similarity] == pytest.approx(lpips.tolist(), rel=1e-3, abs=1e-7)
    assert found.similarity[-1]["lpips"] == 0 < lpips[0], "the same image"
    assert found.figures["similarity"]["lpips"]["mean"] == pytest.approx(float(lpips.mean()), rel=1e-3)
