"""The linear probe of corrected latents (ASCED, Sec. 4.4, Fig. 9), for `bench-trainingfree`.

The paper's reading, as we take it: images are drawn by the plain and by the corrected chain; at each step
after T_c a linear classifier learns the prompt's class from the state alone, one for either chain; its
accuracy on held-out states says how much of the class the latent code holds. It is not asked whether a state
was corrected. A second probe, ours, learns from the same states whether the judge finds the image flawed.

The probes learn from validation prompts and are tested on others; their ridge is chosen by cross-validation
on the plain chain's validation states.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.ranking import area_under_roc, levels_of
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from dataengine.treatment.sampling.sampler import Step, Stepper, denoise, generate
from tests.bench.guided_sampling import KEEPER, SAMPLING, SEED, Steering, judge_confidence, prompts_of_row
from tests.bench.harness import Figure, bootstrap, curve, device, figure, full, quick
from tests.bench.source_hash import weights_hash
from tests.bench.treatment_rows import FLAWED, ClinicModels

COUNTS = (
    {"validation": 14, "evaluation": 14}
    if quick()
    else {"validation": 300, "evaluation": 300}
    if full()
    else {"validation": 150, "evaluation": 150}
)
PART = 14 if quick() else 50
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge as a share of the mean eigenvalue of the states' Gram matrix."""
FOLDS = 5


class StateKeeper:
    """A `Stepper` that keeps the state after each step, and changes nothing."""

    def __init__(self, inner: Stepper = denoise) -> None:
        self.states: list[Tensor] = []
        self._inner = inner

    def __call__(self, family: GeneratorFamily, *step: object) -> Step:
        """The step of `inner`."""
        result = self._inner(family, *step)  # type: ignore[arg-type]
        self.states.append(result.latents.detach().cpu())
        return result


def states_of(clinic: ClinicModels, path: str, use: str, steering: Steering | None) -> dict[str, np.ndarray]:
    """States float16 (images, steps, values) of a chain, categories, and whether the image is flawed."""
    asked, family = prompts_of_row(use, COUNTS[use]), load_family(clinic.flux, device=device())
    sampling = SAMPLING["flux"].model_copy(update={"batch": PART})

    def make(rows: range) -> dict[str, np.ndarray]:
        texts, seeds, keepers = [asked[i].text for i in rows], [SEED[use] + i for i in rows], []
        inner = None if steering is None else steering.steppers(texts, seeds)

        def steppers(batch: slice) -> Stepper:
            keepers.append(StateKeeper(denoise if inner is None else inner(batch)))
            return keepers[-1]

        images = generate(family, texts, seeds, sampling, steppers=steppers)
        states = torch.cat([torch.stack(each.states, 1).flatten(2) for each in keepers])
        flawed = judge_confidence(clinic, images).max((1, 2)) >= round(255 * FLAWED)
        return {"states": states.half().numpy(), "flawed": flawed}

    parts = []
    for start in range(0, COUNTS[use], PART):
        rows = range(start, min(start + PART, COUNTS[use]))
        settings = {
            "steering": steering and steering.facts,
            "sampling": sampling,
            "base": weights_hash(clinic.flux),
        }
        parts.append(KEEPER.arrays(f"probe-{path}/{use}/{start}-{len(rows)}", partial(make, rows), settings))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return joined | {"categories": np.array([prompt.category for prompt in asked])}


def fit_probe(states: np.ndarray, targets: np.ndarray, ridge: float) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares with a ridge from centred states (n, d) to targets (n, k), solved in the dual."""
    centre, level = states.mean(0), targets.mean(0)
    inner = (states - centre) @ (states - centre).T
    added = ridge * np.trace(inner) / len(inner) * np.eye(len(inner))
    weights = (states - centre).T @ np.linalg.solve(inner + added, targets - level)
    return lambda others: (others - centre) @ weights + level


def one_hot(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(names, float64 (n, classes))."""
    names, rows = np.unique(labels, return_inverse=True)
    return names, np.eye(len(names))[rows]


def chosen_ridge(states: np.ndarray, labels: np.ndarray) -> float:
    """The ridge of the best accuracy over folds of the training states."""
    names, targets = one_hot(labels)
    folds = np.arange(len(states)) % FOLDS
    # Prompts take turns by category; shuffled rows give every fold all of them.
    folds = np.random.default_rng(0).permutation(folds)

    def right(ridge: float) -> float:
        hits = []
        for fold in range(FOLDS):
            probe = fit_probe(states[folds != fold], targets[folds != fold], ridge)
            hits.append((names[probe(states[folds == fold]).argmax(1)] == labels[folds == fold]).mean())
        return float(np.mean(hits))

    return max(RIDGES, key=right)


def probe_figures(
    clinic: ClinicModels,
    corrections: dict[str, CorrectionConfig],
    steer: Callable[[CorrectionConfig], Steering],
    first: int,
) -> list[Figure]:
    """Accuracy of the class by the state after each step from `first` on, plain and corrected."""
    paths = {"none": None} | {name: steer(config) for name, config in corrections.items()}
    known = {name: states_of(clinic, name, "validation", by) for name, by in paths.items()}
    test = {name: states_of(clinic, name, "evaluation", by) for name, by in paths.items()}
    steps = range(first, known["none"]["states"].shape[1])
    right: dict[str, list[np.ndarray]] = {name: [] for name in paths}
    flaw: dict[str, list[float]] = {name: [] for name in paths}
    for step in steps:
        ridge = chosen_ridge(_at(known["none"], step), known["none"]["categories"])
        for name in paths:
            names, targets = one_hot(known[name]["categories"])
            probe = fit_probe(_at(known[name], step), targets, ridge)
            right[name].append(names[probe(_at(test[name], step)).argmax(1)] == test[name]["categories"])
            flaw[name].append(_flaw_auroc(known[name], test[name], step, ridge))
    figures, n = [], COUNTS["evaluation"]
    chance = float(np.mean(test["none"]["categories"] == one_hot(test["none"]["categories"])[0][0]))
    note = f"of {len(steps)} states after T_c; chance {chance:.2f}"
    for name in paths:
        each = np.mean(right[name], axis=0)
        figures.append(figure(f"probe_class_{name}", each.mean(), bootstrap(each), "share", n, note))
        mean_auroc = float(np.nanmean(flaw[name]))
        told = "mean over the states: is the final image flawed?"
        figures.append(figure(f"probe_flaw_{name}", mean_auroc, None, "AUROC", n, told))
        if name != "none":
            gap = each - np.mean(right["none"], axis=0)
            id = f"probe_class_{name}_minus_none"
            figures.append(figure(id, gap.mean(), bootstrap(gap), "share", n, "paired by prompt and seed"))
    table: dict[str, Sequence[object]] = {"step": [step + 1 for step in steps]}
    table |= {f"class_{name}": [float(each.mean()) for each in found] for name, found in right.items()}
    table |= {f"flaw_{name}": found for name, found in flaw.items()}
    kept = curve("trainingfree-probe", table)
    return [*figures, figure("probe_curve", "reported", n=n, note=f"every state's accuracy in {kept}")]


def _at(row: dict[str, np.ndarray], step: int) -> np.ndarray:
    return row["states"][:, step].astype(np.float64)


def _flaw_auroc(known: dict[str, np.ndarray], test: dict[str, np.ndarray], step: int, ridge: float) -> float:
    flawed = test["flawed"]
    if flawed.all() or not flawed.any() or not known["flawed"].any():
        return float("nan")
    scores = fit_probe(_at(known, step), known["flawed"][:, None].astype(np.float64), ridge)(_at(test, step))
    order = scores[:, 0].argsort().argsort() / max(len(scores) - 1, 1)
    return float(area_under_roc(levels_of(order[flawed]), levels_of(order[~flawed])))
