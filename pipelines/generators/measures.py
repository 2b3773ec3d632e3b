"""What pairs of images are measured by, image by image, and the figures over all pairs and by category.

Every measure is one value per image; a pair of which one side is unknown is left out of that measure's
figures. Intervals resample prompts, tests pair prompts: images of one prompt are not independent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataengine.curation.config import VqaConfig
from dataengine.curation.questions import NO, YES
from dataengine.errors import ConfigRefused, ImageRefused
from dataengine.quality.guard import detail_energy
from dataengine.quality.intervals import mean_difference
from dataengine.records import Image, Prediction
from dataengine.statistics import adjusted, paired_t_test
from pipelines.config import CLINIC, MeasuresConfig
from pipelines.generators.comparison import Pair, confidence_figures, quality_figures
from pipelines.generators.similarity import open_lpips, pair_similarity, similarity_figures
from pipelines.runtime.context import Context
from pipelines.runtime.images import batches_of_equal_size, read_stacked
from pipelines.runtime.models import ANSWERS

if TYPE_CHECKING:
    from dataengine.quality.distances import FeatureNetwork
    from dataengine.quality.guard import Scorer

BATCH = 16
PLACE = "{prompt}"
MOST_VALUES = 60
"""Values of a column up to which it is a category of prompts, and not a note on each."""
INCEPTION = "inception_v3:"

Sides = tuple[NDArray[np.float64], NDArray[np.float64]]
"""One value per pair, before and after; NaN where it is unknown."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPairs:
    """Pairs with everything that was measured of them."""

    pairs: Sequence[Pair]
    columns: Sequence[Mapping[str, str]]
    """What the prompt set says of each pair's prompt."""
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]]
    sides: dict[str, Sides]
    """Values of the images by measure."""
    similarity: list[dict[str, Any]]
    """See `similarity.pair_similarity`."""
    figures: dict[str, Any]

    @property
    def worst_first(self) -> list[int]:
        """Rows of the pairs, those first whose confidence rose most."""
        rise = np.subtract(*self.sides["max_confidence"][::-1])
        mean = np.subtract(*self.sides["mean_confidence"][::-1])
        return [int(row) for row in np.lexsort((-mean, -rise))]


def measure_pairs(
    context: Context,
    pairs: Sequence[Pair],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    threshold: float,
    measures: MeasuresConfig,
    columns: Sequence[Mapping[str, str]] = (),
    *,
    drawn: bool = True,
) -> MeasuredPairs:
    """Measure pairs of equal sizes; `drawn` says that each prompt has the same number of images of one size,
    so that diversity and attributes can be measured.

    Raises `ModelRefused` and `ConfigRefused` for a measure that cannot be opened, before any is taken.
    """
    lpips = open_lpips(context, measures.lpips)
    network = open_features(context, measures.features)
    scorers: dict[str, Any] = {}
    if measures.alignment:
        scorers["alignment"] = open_alignment(context, measures)
    scorers |= {named: context.models.open_scorer(named) for named in measures.scorers}
    before, after = ([getattr(pair, side) for pair in pairs] for side in ("before", "after"))
    sides: dict[str, Sides] = {
        f"{name}_confidence": (_values(predictions[0], name), _values(predictions[1], name))
        for name in ("max", "mean")
    }
    sides["detail"] = _details(context, before), _details(context, after)
    for name, scorer in scorers.items():
        sides[name] = _scores(context, scorer, before, name), _scores(context, scorer, after, name)
    similarity = pair_similarity(context, pairs, lpips)
    given = list(columns) or [{} for _ in pairs]
    prompts = [pair.before.prompt for pair in pairs]
    figures: dict[str, Any] = {
        **confidence_figures(pairs, *predictions, threshold),
        **(quality_figures(context, pairs, measures.attributes) if drawn else {}),
        "detail": side_figure(sides["detail"], prompts),
        **{name: side_figure(sides[name], prompts) for name in scorers},
        "similarity": similarity_figures(similarity, lpips),
        "distances": distance_figures(context, before, after, network),
        "by_column": column_figures(sides, prompts, given),
    }
    for name in ("max_confidence", "mean_confidence"):
        figures[name]["p"] = side_figure(sides[name], prompts)["p"]
    return MeasuredPairs(
        pairs=pairs,
        columns=given,
        predictions=predictions,
        sides=sides,
        similarity=similarity,
        figures=figures,
    )


def side_figure(sides: Sides, prompts: Sequence[str]) -> dict[str, Any]:
    """Means before and after, their difference with its interval over prompts, and the p-value of a t-test
    that pairs prompts; without any known pair, only their number."""
    known = np.isfinite(sides[0]) & np.isfinite(sides[1])
    before, after = sides[0][known], sides[1][known]
    asked = [prompt for prompt, one in zip(prompts, known, strict=True) if one]
    figure: dict[str, Any] = {"pairs": int(known.sum()), "unknown": int((~known).sum())}
    if not asked:
        return figure
    difference, interval = mean_difference(before, after, asked)
    return figure | {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": difference,
        "interval": list(interval),
        "p": paired_t_test(_per_prompt(before, asked), _per_prompt(after, asked)),
    }


def column_figures(
    sides: Mapping[str, Sides], prompts: Sequence[str], columns: Sequence[Mapping[str, str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """`side_figure` of every measure, by column of the prompt set and value: the change by category.

    `p` is Holm-corrected over a column's values. Columns with one value, or more than `MOST_VALUES`, are
    left out.
    """
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for column in sorted({name for row in columns for name in row}):
        values = np.array([row.get(column, "") for row in columns])
        named = [value for value in dict.fromkeys(values.tolist()) if value]
        if not 1 < len(named) <= MOST_VALUES:
            continue
        table: dict[str, dict[str, Any]] = {}
        for value in named:
            rows = np.flatnonzero(values == value)
            asked = [prompts[row] for row in rows]
            table[value] = {"prompts": len(set(asked))} | {
                name: side_figure((side[0][rows], side[1][rows]), asked) for name, side in sides.items()
            }
        for name in sides:
            raw = {value: one[name]["p"] for value, one in table.items() if one[name].get("p") is not None}
            for value, p in adjusted(raw, "holm").items():
                table[value][name]["p"] = p
        figures[column] = table
    return figures


def distance_figures(
    context: Context, before: Sequence[Image], after: Sequence[Image], network: "FeatureNetwork | None"
) -> dict[str, Any]:
    """FID, KID, precision and recall of the images after, with those before as the reference; `note` says
    why they were not measured."""
    if network is None:
        return {"note": "FID and KID not measured: they need a feature network (setting features)"}
    import torch

    from dataengine.quality.distances import compute_features, feature_distances

    first, second = (
        torch.cat([compute_features(pixels, network) for _, pixels in _chunks(context, images)])
        for images in (before, after)
    )
    try:
        found = feature_distances(first, second, network)
    except ImageRefused as error:
        return {"note": f"FID and KID not measured: {error}"}
    names = ("network", "images", "fid", "kid", "kid_std", "precision", "recall")
    return {name: getattr(found, name) for name in names} | {"note": ""}


def open_features(context: Context, named: str) -> "FeatureNetwork | None":
    """The feature network that `MeasuresConfig.features` names. Raises `ModelRefused`."""
    if not named:
        return None
    from dataengine.quality.distances import ClassifierFeatures, TorchvisionFeatures

    device = context.models.device
    if named.startswith(INCEPTION):
        return TorchvisionFeatures("inception_v3", Path(named.removeprefix(INCEPTION)), device)
    if named == CLINIC:
        from dataengine.clinic.parts import materialise

        return ClassifierFeatures(
            materialise("readers", context.workspace.path / "models" / "readers"), device
        )
    return ClassifierFeatures(named, device)


def open_alignment(context: Context, measures: MeasuresConfig) -> "Scorer":
    """What scores how well an image shows its prompt. Raises `ConfigRefused` for a model that answers no
    questions, and for a question without its place for the prompt."""
    if measures.alignment.startswith("clip:"):
        return context.models.open_scorer(measures.alignment)
    if PLACE not in measures.question:
        raise ConfigRefused(f"the question {measures.question!r} has no place for the prompt, {PLACE}")
    return PromptQuestion(context, measures.alignment, measures.question)


class PromptQuestion:
    """Alignment by a yes/no question to a VQA model, as VQAScore and VNLI ask it: 1 for yes, 0 for no, NaN
    where the answer is neither. Answers are cached."""

    def __init__(self, context: Context, location: str, question: str) -> None:
        """Opens the VQA model. Raises `ConfigRefused` for an image classifier."""
        self.name = "alignment"
        self._location, self._question = location, question
        self._kept = context.workspace.path / ANSWERS
        self._model: Any = context.models.open_vqa(location, self._config(""), self._kept)
        if not hasattr(self._model, "with_question"):
            raise ConfigRefused(
                f"{location} is an image classifier and answers no questions; give a VQA model, an endpoint, "
                "or clip:LOCATION"
            )

    def _config(self, prompt: str) -> VqaConfig:
        return VqaConfig(question=self._question.replace(PLACE, prompt), categories=(YES, NO))

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.floating]:
        """See `guard.Scorer`."""
        from dataengine.curation.answers import AnswerCache

        scores = np.full(len(images), np.nan)
        for row, prompt in enumerate(prompts):
            config = self._config(prompt)
            cache = AnswerCache(self._kept, self._location, config.question)
            ((answer, _),) = self._model.with_question(config, cache).categories(images[row : row + 1])
            scores[row] = {YES: 1.0, NO: 0.0}.get(answer, np.nan)
        return scores


def _per_prompt(values: NDArray[np.float64], prompts: Sequence[str]) -> NDArray[np.float64]:
    """The mean of each prompt's values, in the order of first appearance."""
    rows: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        rows.setdefault(prompt, []).append(float(value))
    return np.array([np.mean(each) for each in rows.values()])


def _values(predictions: Sequence[Prediction], name: str) -> NDArray[np.float64]:
    return np.array([getattr(one, name) for one in predictions], dtype=np.float64)


def _details(context: Context, images: Sequence[Image]) -> NDArray[np.float64]:
    values = np.full(len(images), np.nan)
    for rows, pixels in _chunks(context, images):
        values[rows] = [detail_energy(pixels[place : place + 1]) for place in range(len(rows))]
    return values


def _scores(context: Context, scorer: "Scorer", images: Sequence[Image], name: str) -> NDArray[np.float64]:
    values, done = np.full(len(images), np.nan), 0
    for rows, pixels in _chunks(context, images):
        context.report(done, len(images), f"scoring: {name}")
        values[rows] = scorer.score(pixels, [images[row].prompt for row in rows])
        done += len(rows)
    return values


def _chunks(context: Context, images: Sequence[Image]) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Rows of images of one size, and their pixels uint8 NHWC, so that memory holds one chunk."""
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(id(image), []).append(row)
    for group in batches_of_equal_size(images, BATCH):
        yield [rows[id(image)].pop(0) for image in group], read_stacked(context.workspace, group)
