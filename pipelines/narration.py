"""A stage's recorded result in one line for people."""

from collections.abc import Callable
from typing import Any

TITLES = {
    "generate": "generate: survey images",
    "diagnose": "diagnose: artifact maps",
    "categorize": "categorize: what is shown",
    "write_prompts": "write prompts for hard categories",
    "generate_hard": "generate: hard cases",
    "diagnose_hard": "diagnose: hard cases",
    "mine": "mine: the most instructive",
    "wait_for_labels": "people label",
    "train_teacher": "train the teacher",
    "pseudo_label": "pseudo-label the rest",
    "publish": "publish the training set",
    "retrain": "retrain the detector",
    "evaluate": "evaluate on the benchmark",
    "promote": "promote",
    "treat": "treat the generator",
    "judge": "draw held-out prompts, before and after",
}


def found(stage: str, result: dict[str, Any]) -> str:
    """What a stage found; empty for one that we have no words for."""
    return FOUND[stage](result) if stage in FOUND else ""


def _categories(result: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name or 'without category'}" for name, count in result["categories"].items())


def _samples(result: dict[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in result["samples"].items())


def _evaluated(result: dict[str, Any]) -> str:
    parts = [
        f"{name.replace('_', ' ')} {before['mse']:.4f} → {result['candidate'][name]['mse']:.4f}"
        for name, before in result["champion"].items()
    ]
    return "MSE " + ", ".join(parts)


def _promoted(result: dict[str, Any]) -> str:
    return "the candidate is champion" if result["promoted"] else "refused: " + "; ".join(result["reasons"])


def _treated(result: dict[str, Any]) -> str:
    if result["treated"] is None:
        return f"nothing kept: {result['stopped']}"
    return f"update {result['kept']} of {result['updates']} kept; {result['stopped']}"


def _judged(result: dict[str, Any]) -> str:
    if not result["pairs"]:
        return "no treated generator"
    frequency, confidence = result["frequency"], result["mean_confidence"]
    return (
        f"{result['pairs']} pairs; the detector alarms in {frequency['before']:.0%} → "
        f"{frequency['after']:.0%}, mean confidence × {confidence['ratio']:.2f}"
    )


def _suspected(result: dict[str, Any]) -> str:
    return f"an alarm in {result['suspected']} of {result['images']} images"


FOUND: dict[str, Callable[[dict[str, Any]], str]] = {
    "generate": lambda result: f"{result['images']} images",
    "diagnose": _suspected,
    "categorize": _categories,
    "write_prompts": lambda result: "hard: " + (", ".join(result["hard"]) or "none"),
    "generate_hard": lambda result: f"{result['images']} images",
    "diagnose_hard": _suspected,
    "mine": lambda result: f"{result['queued']} images go to people",
    "wait_for_labels": lambda result: f"{result['labels']} answers, {result['clean']} of them clean",
    "train_teacher": _samples,
    "pseudo_label": lambda result: f"{result['images']} images, {result['flawed']} of them broken",
    "publish": lambda result: f"{result['rows']} rows, snapshot {result['snapshot'][:12]}",
    "retrain": _samples,
    "evaluate": _evaluated,
    "promote": _promoted,
    "treat": _treated,
    "judge": _judged,
}
