"""Pairs of the localized preference: who wins, what is left out and why, and where a pair differs."""

from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import ConfigRefused
from dataengine.images import encode_png
from dataengine.masks import pack_label_map
from dataengine.records import REPAIRED, Image, Prediction, Study, Vote, image_id, prompt_group
from dataengine.treatment.config import PixelConfig, PreferenceConfig, SamplingConfig, TreatmentConfig
from pipelines.config import PromptChoice, TreatmentRun
from pipelines.generators.preferences import find_pairs, gather_pairs
from pipelines.jobs.treat_generator import treat_job
from pipelines.runtime.context import Context
from pipelines.services import runs
from storage.maintenance.erase import erase_images
from tests.fakes import with_methods
from tests.pipelines.conftest import fresh_context

SIDE = 16
CONFIG = PreferenceConfig()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return fresh_context(tmp_path / "workspace")[0]


def add(context: Context, value: int, prompt: str = "a hand", spot: int = 0, **changes: Any) -> Image:
    """A grey image of that value with a square of side 4 that is brighter by `spot`."""
    height = changes.pop("height", SIDE)
    pixels = np.full((height, SIDE, 3), value, np.uint8)
    pixels[4:8, 4:8] += np.uint8(spot)
    sha256 = context.workspace.blobs.put(encode_png(pixels))
    seed = changes.pop("seed", 0)
    image = Image(
        id=image_id(sha256, "squares", f"{prompt} {changes}", seed),
        sha256=sha256,
        height=height,
        width=SIDE,
        prompt=prompt,
        generator_id="squares",
        seed=seed,
        group=prompt_group(prompt, seed),
    )
    image = replace(image, **changes)
    with context.workspace.catalog() as catalog:
        catalog.images.add_many([image])
        catalog.commit()
    return image


def study(
    context: Context, name: str, pairs: list[tuple[Image, Image]], votes: dict[str, str], **changes: Any
) -> None:
    """A closed study; `votes` has a letter per pair for each rater: a(fter), b(efore), t(ie) or - for none.
    Letters beyond the pairs answer attention checks."""
    words = {"a": "after", "b": "before", "t": "tie"}
    made = Study(
        id=name,
        name=name,
        before_id="squares",
        after_id="squares",
        pairs=tuple((before.id, after.id) for before, after in pairs),
        state=changes.pop("state", "closed"),
        design=changes.pop("design", {}),
    )
    cast = [
        Vote(study_id=name, pair=pair, rater=rater, question="artifacts", choice=words[letter])  # type: ignore[arg-type]
        for rater, letters in votes.items()
        for pair, letter in enumerate(letters)
        if letter != "-"
    ]
    with context.workspace.catalog() as catalog:
        catalog.studies.add(made)
        catalog.votes.add(*cast)
        catalog.commit()


def found(context: Context, **changes: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Ids of winners and losers, and what was left out."""
    held_out, detector = changes.pop("held_out", ()), changes.pop("detector", None)
    with context.workspace.catalog(read_only=True) as catalog:
        search = find_pairs(catalog, CONFIG.model_copy(update=changes), detector, held_out)
    return [(pair.winner.id, pair.loser.id) for pair in search.pairs], dict(search.left_out)


def test_the_majority_of_the_raters_that_count_chooses_the_winner(context: Context) -> None:
    pairs = [(add(context, 10 * k, spot=9), add(context, 10 * k)) for k in range(5)]
    # Two raters pass the two attention checks; three careless ones would have turned the first pair round.
    kept = {"ada": "ab-t-aa", "bob": "aba--aa"}
    study(context, "one", pairs, kept | dict.fromkeys(("x", "y", "z"), "b----bb"))
    winners, left_out = found(context)
    assert winners == [
        (pairs[0][1].id, pairs[0][0].id),
        (pairs[1][0].id, pairs[1][1].id),
        (pairs[2][1].id, pairs[2][0].id),
    ]
    assert left_out == {"tied": 1, "without a vote that counts": 1}


def test_studies_that_say_nothing_are_left_out(context: Context) -> None:
    pairs = [(add(context, 10 * k, spot=9), add(context, 10 * k)) for k in range(2)]
    study(context, "open", pairs, {"ada": "aa"}, state="open")
    study(context, "other", pairs, {}, design={"questions": ["quality"]})
    study(context, "careless", pairs, {"x": "aabb"})
    assert found(context) == (
        [],
        {
            "of an open study": 2,
            "of a study without a question on artifacts": 2,
            "without a vote that counts": 2,
        },
    )
    study(context, "up", pairs[:1], {"ada": "a"})
    study(context, "down", pairs[:1], {"ada": "b"})
    assert found(context)[1]["judged both ways"] == 1


def repair_of(context: Context, original: Image, spot: int = 0, **changes: Any) -> Image:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:9, 3:9] = 1
    about = {"image": original.id, "mask": b64encode(pack_label_map(mask)).decode()}
    kept = {"source": REPAIRED, "generator_id": None, "seed": 7, "settings": {REPAIRED: about}}
    kept |= {"prompt": original.prompt, "group": original.group, "split": original.split}
    return add(context, 200, **(kept | {"spot": spot} | changes))


def test_accepted_repairs_win_and_bring_their_mask(context: Context) -> None:
    original = add(context, 200, spot=50)
    accepted = repair_of(context, original)
    repair_of(context, original, spot=1, status="proposed")
    repair_of(context, original, spot=2, status="refused")
    assert found(context) == ([(accepted.id, original.id)], {})
    pairs = gather_pairs(context, "run", CONFIG, "first", ())
    assert len(pairs) == 1 and pairs.prompts == ["a hand"]
    assert pairs.winners[0][4, 4].tolist() == [200] * 3 and pairs.losers[0][4, 4].tolist() == [250] * 3
    assert pairs.masks[0].sum() == 36 and pairs.masks[0][3, 8] and not pairs.masks[0][9, 9]


def corrected(context: Context, prompt: str, **changes: Any) -> tuple[Image, Image]:
    """An image drawn with correction and the one drawn without."""
    plain = add(context, 100, prompt, spot=60, settings={"steps": 5})
    settings = {"steps": 5, "correction": {"method": "ttc"}, "detector": ""}
    return add(context, 100, prompt, **({"settings": settings} | changes)), plain


def test_a_corrected_image_wins_unless_the_detector_finds_no_less(context: Context) -> None:
    pairs = [corrected(context, f"prompt {k}") for k in range(3)]
    alone = add(context, 90, "alone", settings={"steps": 5, "correction": {}})
    other = {"steps": 9, "correction": {"method": "ttc"}, "detector": ""}
    corrected(context, "other steps", settings=other)
    means = [(pairs[0], (0.1, 0.2)), (pairs[1], (0.2, 0.2))]
    rows = [
        Prediction(image_id=image.id, detector_id="first", max=mean, mean=mean, uncertainty=0.0)
        for pair, values in means
        for image, mean in zip(pair, values, strict=True)
    ]
    with context.workspace.catalog() as catalog:
        catalog.predictions.add_many(rows)
        catalog.commit()
    winners, left_out = found(context, detector="first")
    assert set(winners) == {(winner.id, loser.id) for winner, loser in (pairs[0], pairs[2])}
    assert left_out == {"corrected without an uncorrected image": 2, "corrected in vain, by the detector": 1}
    assert len(found(context)[0]) == 3 and alone.id not in str(winners)
    gathered = gather_pairs(context, "run", CONFIG, "first", ())
    expected = np.zeros((SIDE, SIDE), bool)
    expected[4:8, 4:8] = True
    assert all(np.array_equal(mask, expected) for mask in gathered.masks[:2])


def test_only_what_may_be_trained_on_is_taken(context: Context) -> None:
    """The rules of the regularisation's images: active, of the training split; nothing that is held out."""
    changed: list[tuple[str, dict[str, Any]]] = [
        ("of the validation or benchmark split", {"split": "validation"}),
        ("of the validation or benchmark split", {"split": "benchmark"}),
        ("with a refused image", {"status": "refused"}),
        ("with an injected artifact", {"source": "injected"}),
        ("without a prompt in common", {"prompt": ""}),
        ("of two sizes", {"height": 2 * SIDE}),
    ]
    pairs = [
        (add(context, 30 + k, spot=60), add(context, 30 + k, **changes))
        for k, (_, changes) in enumerate(changed)
    ]
    pairs.append((add(context, 90, "held", spot=60), add(context, 90, "held")))
    pairs.append((add(context, 91, spot=60), add(context, 91)))
    study(context, "one", pairs, {"ada": "a" * len(pairs)})
    winners, left_out = found(context, held_out=["held"])
    assert winners == [(pairs[-1][1].id, pairs[-1][0].id)]
    expected: dict[str, int] = {"of a prompt that is held out": 1}
    for reason, _ in changed:
        expected[reason] = expected.get(reason, 0) + 1
    assert left_out == expected
    assert found(context, sources=("repairs",))[0] == []
    assert found(context, limit=1)[1]["above the limit"] == 1


def test_no_pair_is_one_clear_error(context: Context) -> None:
    same, wide = add(context, 5), (add(context, 6), add(context, 250))
    study(context, "one", [(same, add(context, 6, spot=1)), wide, wide], {"ada": "aat"})
    with pytest.raises(ConfigRefused) as refused:
        gather_pairs(context, "run", CONFIG.model_copy(update={"sources": ("votes",)}), "first", ())
    text = str(refused.value)
    assert text.startswith(
        "there is no pair with a winner for the localized preference: 3 pairs found, 0 with a winner; left "
        "out: "
    )
    for part in ("1 tied", "1 without a visible difference", "1 that differ in more than 50% of the image"):
        assert part in text
    assert "accept repairs" in text and "tuning.preference to null" in text
    study(context, "two", [(add(context, 50, spot=60), add(context, 50))], {"ada": "a"})
    assert len(gather_pairs(context, "run", CONFIG, "first", ())) == 1, "the same run, once there is a pair"


def test_a_resumed_run_has_its_pairs_but_for_erased_images(context: Context) -> None:
    pairs = [(add(context, 10 * k, f"p{k}", spot=60), add(context, 10 * k, f"p{k}")) for k in range(2)]
    study(context, "one", pairs, {"ada": "aa"})
    assert gather_pairs(context, "run", CONFIG, "first", ()).prompts == ["p0", "p1"]
    later = (add(context, 100, "late", spot=60), add(context, 100, "late"))
    study(context, "two", [later], {"ada": "a"})
    assert gather_pairs(context, "run", CONFIG, "first", ()).prompts == ["p0", "p1"]
    assert len(gather_pairs(context, "another", CONFIG, "first", ())) == 3
    erase_images(context.workspace, [pairs[0][0].id], "test")
    assert gather_pairs(context, "run", CONFIG, "first", ()).prompts == ["p1"]


def test_a_treatment_learns_from_the_pairs_and_says_what_it_left_out(context: Context) -> None:
    settings = TreatmentRun(
        generator="squares",
        prompts=PromptChoice(source="given", texts=("a photo of a hand",)),
        judge=PromptChoice(source="given", texts=("a photo of a face", "kept")),
        tuning=TreatmentConfig(
            updates=2,
            offline=None,
            pixel=PixelConfig(weight=0),
            preference=CONFIG,
            sampling=SamplingConfig(steps=5),
        ),
    )
    check = {each.name: each for each in runs.check_treatment(context.workspace, settings)}[
        "preference pairs"
    ]
    assert check.verdict == "bad" and check.text.startswith("There is no pair with a winner")
    pairs = [(add(context, 10, name, spot=60), add(context, 10, name)) for name in ("taken", "kept")]
    study(context, "one", pairs, {"ada": "aa"})
    check = {each.name: each for each in runs.check_treatment(context.workspace, settings)}[
        "preference pairs"
    ]
    assert (
        check.verdict == "good"
        and "1 from votes" in check.text
        and "1 of a prompt that is held out" in check.text
    )
    given: list[Any] = []

    def recorded(*arguments: Any, pairs: Any, **named: Any) -> Any:
        given.append(pairs)
        return context.models.treat(*arguments, **named)

    models = with_methods(context.models, treat=recorded)
    args = {"run": "treat-1", "settings": settings.model_dump(mode="json")}
    answer = treat_job(replace(context, models=models), args)
    assert given[0].prompts == ["taken"]
    with context.workspace.catalog(read_only=True) as catalog:
        result = catalog.treatments.get(answer["treatment"]).result
    assert result["pairs"] == {"used": {"votes": 1}, "left_out": {"of a prompt that is held out": 1}}
