"""What the bench of rounds computes: equal totals, spent budgets, what a round hands on, and the headline."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dataengine.clinic.world import Prompt
from tests.bench import rounds, rounds_arms
from tests.bench.rounds_arms import Labels, Totals, choose, play


def noise(count: int) -> np.ndarray:
    """Images that are no duplicates of each other."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def maps_of(highest: list[float]) -> np.ndarray:
    maps = np.zeros((len(highest), 16, 16), np.float32)
    maps[:, 3, 3] = highest
    return maps


@pytest.mark.parametrize("flagged", [0, 2, 10])
def test_the_budget_is_spent_however_many_images_are_flagged(flagged: int) -> None:
    highest = [0.9] * flagged + [0.1] * (10 - flagged)
    chosen = choose(noise(10), maps_of(highest), ["hand", "sign"] * 5, 6, seed=0)
    assert len(chosen) == len(set(chosen)) == 6
    assert len([index for index in chosen if index < flagged]) == min(flagged, 6)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="only 4 of 4 images can be labelled, 5 are needed"):
        choose(noise(4), maps_of([0.9] * 4), ["hand"] * 4, 5, seed=0)


def test_examples_carry_the_masks_and_the_confidence_when_chosen() -> None:
    masks = np.zeros((2, 16, 16), dtype=bool)
    masks[1, 2:4, 5] = True
    known = Labels(noise(2), masks, np.array(["hand", "sign"]), np.array([0.25, 0.75]), np.array(1))
    clean, flawed = known.samples()
    assert known.flawed == 1 and clean.target.sum() == 0 and flawed.target.sum() == 2
    assert (flawed.kind, flawed.category, flawed.max_confidence) == ("true", "sign", 0.75)
    other = Labels(known.images, ~masks, known.categories, known.highest, known.flagged)
    assert known.digest != other.digest, "a training is kept under what it learned from"


def test_a_round_continues_what_the_one_before_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    totals = Totals(8, 4, 40, 12, 1, 0, 0, 0)
    seen: list[dict[str, Any]] = []
    empty = Labels(*(np.zeros((1, 2, 2)) for _ in range(5)))

    def label(
        clinic: object,
        teacher: object,
        lora: Path | None,
        sight: Path,
        asked: list[Prompt],
        first: int,
        budget: int,
        seed: int,
    ) -> Labels:
        seen.append({"drawn by": lora, "mined by": sight, "asked": asked, "first": first, "labels": budget})
        return empty

    def train(name: str, start: Path, known: list[Labels], clean: np.ndarray, steps: int, seed: int) -> Path:
        seen[-1] |= {"trained from": start, "known": len(known), "steps": steps}
        return tmp_path / f"detector of {name}"

    def treat(clinic: object, name: str, config: object, **given: Any) -> SimpleNamespace:
        seen[-1] |= {"treated from": given["start"], "by": given["detector"], "updates": given["updates"]}
        return SimpleNamespace(points={given["updates"]: tmp_path / f"LoRA of {name}"})

    monkeypatch.setattr(rounds_arms, "TOTALS", totals)
    monkeypatch.setattr(rounds_arms, "label", label)
    monkeypatch.setattr(rounds_arms, "train", train)
    monkeypatch.setattr(rounds_arms, "run_treatment", treat)
    monkeypatch.setattr(rounds_arms, "last_within", lambda clinic, run, base: max(run.points))
    monkeypatch.setattr(rounds_arms, "generate_and_score", lambda *given: None)
    monkeypatch.setattr(rounds_arms, "load_detector", lambda folder, device: folder)
    monkeypatch.setattr(rounds_arms, "KEEPER", SimpleNamespace(get=lambda name: {"labels": 1.0}))
    clinic = SimpleNamespace(flux=tmp_path, first_doctor=tmp_path / "first", clean=np.zeros((1, 2, 2, 3)))

    for arm, count in rounds.ARMS.items():
        seen.clear()
        played = play(clinic, None, count, seed=3)  # type: ignore[arg-type]
        assert len(played) == count, arm
        assert sum(one["labels"] for one in seen) == 4 and sum(one["steps"] for one in seen) == 40
        assert sum(one["updates"] for one in seen) == 12
        asked = [prompt.text for one in seen for prompt in one["asked"]]
        assert asked == [prompt.text for prompt in rounds_arms.prompts("loop", 8)]
        assert [one["first"] for one in seen] == [8 // count * number for number in range(count)]
        assert [one["known"] for one in seen] == list(range(1, count + 1))
        assert seen[0]["drawn by"] is None and seen[0]["mined by"] == tmp_path / "first"
        for one, made in zip(seen, played, strict=True):
            assert one["drawn by"] == one["treated from"] == made.start
            assert one["mined by"] == one["trained from"] and one["by"] == made.detector
        for one, before in zip(seen[1:], played, strict=False):
            assert one["drawn by"] == before.lora and one["mined by"] == before.detector


def test_totals_divide_into_equal_rounds() -> None:
    found = rounds_arms.TOTALS
    for total in (found.drawn, found.labels, found.detector_steps, found.updates):
        assert all(total % count == 0 for count in rounds.ARMS.values())
    assert found.updates // max(rounds.ARMS.values()) % found.every == 0, "a round ends with a point"


def shown(*judged: float) -> SimpleNamespace:
    return SimpleNamespace(judged=np.array(judged))


def test_the_headline_pools_the_seeds_and_reads_the_last_round() -> None:
    def outcome(last: SimpleNamespace, only: SimpleNamespace) -> SimpleNamespace:
        earlier = SimpleNamespace(after=shown(0.9, 0.9, 0.9, 0.9))
        arms = {"four": [earlier, SimpleNamespace(after=last)], "one": [SimpleNamespace(after=only)]}
        return SimpleNamespace(base=shown(0.9, 0.9, 0.9, 0.9), arms=arms)

    outcomes = [
        outcome(shown(0.6, 0.1, 0.1, 0.1), shown(0.6, 0.7, 0.1, 0.1)),
        outcome(shown(0.1, 0.1, 0.1, 0.5), shown(0.5, 0.1, 0.5, 0.1)),
    ]
    asked = [Prompt(text, "hand", {}) for text in ("a hand", "two hands")]
    four_over_one, four, one = rounds.headline(outcomes, asked)  # type: ignore[arg-type]
    assert four_over_one.value == pytest.approx(2 / 4) and four_over_one.n == 8
    assert four.value == pytest.approx(2 / 8) and one.value == pytest.approx(4 / 8)
    assert "2 seeds of training, 4 pairs each" in four_over_one.note
