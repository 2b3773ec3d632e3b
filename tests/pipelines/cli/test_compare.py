"""`clinic compare` of two generators and `clinic judge` of two folders, with fakes: the same figures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from pipelines.runtime import context as runtime_context
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from tests.fake_workspace import prepare
from tests.fakes import FakeModels, TinyDetector, fake_models, paint, with_methods
from tests.pipelines.cli.test_commands import Console

PROMPTS = "Prompt\tCategory\tChallenge\n" + "".join(
    f"a {name}, number {number}\t{kind}\t{'Basic' if number % 2 else 'Imagination'}\n"
    for number in range(4)
    for name, kind in (("hand", "People"), ("tree", "Plants"))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the base `squares`, and one with a LoRA on it, `treated`."""
    path = tmp_path_factory.mktemp("compare") / "w"
    workspace = create_workspace(path)
    prepare(workspace, real=0)
    add_treated(Context(workspace, fake_models()))
    workspace.close()
    return path


@pytest.fixture
def console(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Console:
    monkeypatch.setattr(runtime_context, "real_models", fake_models)
    (tmp_path / "prompts.tsv").write_text(PROMPTS)
    return Console(folder, capsys)


def add_treated(context: Context) -> None:
    from dataengine.records import GeneratorVersion

    lora = context.workspace.path / "lora"
    lora.mkdir()
    (lora / "treated.json").write_text("{}")
    version = GeneratorVersion(
        id="treated",
        name="treated",
        location="squares",
        lora=context.workspace.checkpoints.publish(lora),
        parent="squares",
    )
    with context.workspace.catalog() as catalog:
        catalog.generators.add(version)
        catalog.commit()


def compared(tmp_path: Path) -> tuple[str, ...]:
    words = ("compare", "squares", "treated", "--detector", "first", "--prompts", tmp_path / "prompts.tsv")
    return (*map(str, words), "--out", str(tmp_path / "out"))


def test_two_generators_are_compared_into_a_folder_worst_first(console: Console, tmp_path: Path) -> None:
    report = console.json(*compared(tmp_path), "--seeds", "2")
    assert report["pairs"] == 16 and report["before"] == "squares" and report["after"] == "treated"
    figures = report["figures"]
    # The flaw is a red square; the treated generator paints a tenth of them.
    prompts = [line.split("\t")[0] for line in PROMPTS.splitlines()[1:]]
    seeds = {text: [1_000_000 + 2 * place, 1_000_001 + 2 * place] for place, text in enumerate(prompts)}
    detector = TinyDetector(0.2)
    highest = {
        side: [
            detector.find_artifacts(paint(text, seed, treated=side == "after")).max()
            for text in prompts
            for seed in seeds[text]
        ]
        for side in ("before", "after")
    }
    for side in ("before", "after"):
        assert figures["max_confidence"][side] == pytest.approx(np.mean(highest[side]), abs=1e-5)
        assert figures["frequency"][side] == np.mean(np.array(highest[side]) >= 0.5)
    low, high = figures["mean_confidence"]["interval"]
    assert low <= figures["mean_confidence"]["ratio"] <= high < 1
    people = figures["by_column"]["category"]["People"]
    hands = [row for row, text in enumerate(prompts * 2) if "hand" in prompts[row // 2]]
    change = np.subtract(highest["after"], highest["before"])[hands].mean()
    assert people["prompts"] == 4 and people["max_confidence"]["difference"] == pytest.approx(
        change, abs=1e-5
    )
    assert figures["by_column"]["challenge"].keys() == {"Basic", "Imagination"}
    assert figures["similarity"]["identical"] > 0 and "LPIPS not measured" in " ".join(report["notes"])
    with (tmp_path / "out/pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    rises = [float(row["max_confidence_after"]) - float(row["max_confidence_before"]) for row in rows]
    assert len(rows) == 16 and rises == sorted(rises, reverse=True)
    assert {rows[0]["category"], rows[0]["challenge"]} <= {"People", "Plants", "Basic", "Imagination"}
    first = np.asarray(Picture.open(tmp_path / "out/before" / rows[0]["file"]))
    assert (first == paint(rows[0]["prompt"], int(rows[0]["seed"]))).all()
    page = (tmp_path / "out/comparison.html").read_text()
    assert "squares against treated" in page and "By category" in page
    assert Picture.open(tmp_path / "out/pairs.jpg").width > 500
    assert json.loads((tmp_path / "out/report.json").read_text()) == report


def test_the_same_call_draws_nothing_again_and_another_overwrites_nothing(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = console.json(*compared(tmp_path))

    def draw(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("all images are there")

    monkeypatch.setattr(
        runtime_context, "real_models", lambda device="cpu": with_methods(FakeModels(), generate=draw)
    )
    assert console.json(*compared(tmp_path)) == first
    status, _, err = console(*compared(tmp_path), "--seeds", "3")
    assert status == 1 and "nothing was overwritten" in err and err.count("\n") == 1


def test_images_drawn_with_other_settings_are_not_taken_for_these(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(family: Any, prompts: Any, seeds: Any, settings: Any, report: Any = None) -> Any:
        drawn.append(settings.steps)
        painted = fake_models().generate(family, prompts, seeds, settings)
        return 255 - painted if settings.steps == 9 else painted

    monkeypatch.setattr(
        runtime_context, "real_models", lambda device="cpu": with_methods(FakeModels(), generate=draw)
    )
    words = compared(tmp_path)[:-1]
    usual = console.json(*words, str(tmp_path / "usual"), "--seeds", "3")
    drawn.clear()
    other = console.json(*words, str(tmp_path / "other"), "--seeds", "3", "--set", "sampling.steps=9")
    assert set(drawn) == {9} and other["figures"]["mean_confidence"] != usual["figures"]["mean_confidence"]
    # The same pixels by other settings are the same images.
    same = console.json(*words, str(tmp_path / "same"), "--seeds", "3", "--set", "sampling.steps=7")
    assert same["figures"] == usual["figures"] and same["pairs"] == 24


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six pairs, of which one is broken, one is of two sizes, and one of two formats."""
    sides = tmp_path / "before", tmp_path / "after"
    for treated, folder in enumerate(sides):
        (folder / "deep").mkdir(parents=True)
        for number in range(5):
            Picture.fromarray(paint("a hand", number, treated=bool(treated))).save(
                folder / f"deep/{number}.png"
            )
        (folder / "broken.png").write_bytes(b"none" if treated else (folder / "deep/0.png").read_bytes())
        Picture.fromarray(paint("a hand", 9)).save(folder / ("kind.bmp" if treated else "kind.png"))
        size = (32, 48) if treated else (32, 32)
        Picture.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / "size.png")
    Picture.fromarray(paint("a hand", 8)).save(sides[0] / "alone.png")
    Picture.fromarray(paint("a hand", 8)).save(sides[1] / "new.png")
    return sides


def test_folders_are_paired_by_name_and_what_cannot_be_is_named(
    console: Console, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("judge", *map(str, folders), "--detector", "first", "--out", str(tmp_path / "out"))
    report = console.json(*words)
    assert report["pairs"] == 6
    detector = TinyDetector(0.2)
    expected = [
        [detector.find_artifacts(paint("a hand", number, treated=treated)).max() for number in range(5)]
        + [detector.find_artifacts(paint("a hand", 9)).max()]
        for treated in (False, True)
    ]
    for side, values in zip(("before", "after"), expected, strict=True):
        assert report["figures"]["max_confidence"][side] == pytest.approx(np.mean(values), abs=1e-5)
    left = {one["file"]: one["reason"] for one in report["left_out"]}
    assert left.keys() == {"before/alone.png", "after/new.png", "after/broken.png", "size.png"}
    assert (
        left["size.png"].startswith("32×32 before, 32×48 after")
        and "no file of that name" in left["after/new.png"]
    )
    with (tmp_path / "out/pairs.csv").open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == {
            "kind.png",
            *(f"deep/{number}.png" for number in range(5)),
        }
    assert not (tmp_path / "out/before").exists()
    assert console.json(*words) == report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("judge", "before", "--detector", "first", "--out", "o"), "name two folders"),
        (("judge", "before", "after", "--out", "o"), "name a detector with --detector"),
        (("judge", "before", "after", "--detector", "first"), "name the folder of the results"),
        (("judge", "before", "gone", "--detector", "first", "--out", "o"), "there is no folder at gone"),
        (
            ("judge", "before", "after", "--detector", "first", "--out", "after/o"),
            "lies in the compared folder",
        ),
        (("judge", "before", "empty", "--detector", "first", "--out", "o"), "no image of before could be"),
        (("judge", "--out", "o"), "are for folders of images"),
        (("judge", "before", "after", "--detector", "gone", "--out", "o"), "there is no detector 'gone'"),
        (
            ("judge", "before", "after", "--detector", "first", "--out", "o", "--set", "alignment=clip:x"),
            "need the prompt of every image",
        ),
        (
            ("judge", "before", "after", "--detector", "first", "--out", "o", "--set", "lpips=gone"),
            "there is no such file",
        ),
        (("compare", "squares", "--detector", "first", "--prompts", "p.txt", "--out", "o"), "name a second"),
        (
            ("compare", "squares", "squares", "--detector", "first", "--prompts", "p.txt", "--out", "o"),
            "both generators are squares",
        ),
        (
            (
                *("compare", "squares", "treated", "--detector", "first", "--prompts", "p.txt", "--out", "o"),
                *("--limit", "0"),
            ),
            "the limit is 0 prompts; expected 1 or more",
        ),
        (
            ("compare", "squares", "treated", "--detector", "first", "--prompts", "gone", "--out", "o"),
            "there are no prompts at 'gone'",
        ),
        (
            (
                *("compare", "squares", "treated", "--detector", "first", "--prompts", "p.txt", "--out", "o"),
                *("--set", "measures.alignment=m", "--set", "measures.question=Good?"),
            ),
            "has no place for the prompt",
        ),
        (
            (
                *("compare", "squares", "treated", "--detector", "first", "--prompts", "p.txt", "--out", "o"),
                *("--set", "measures.alignment=m"),
            ),
            "is an image classifier and answers no questions",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    console: Console,
    folders: tuple[Path, Path],
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.txt").write_text("a hand\n")
    status, _, err = console(*words)
    assert status == 1 and said in err and err.count("\n") == 1


def test_a_folder_begun_for_a_model_that_is_not_there_can_be_begun_for_another(
    console: Console, tmp_path: Path
) -> None:
    words = compared(tmp_path)
    status, _, err = console(*(word.replace("first", "frist") for word in words))
    assert status == 1 and "there is no detector 'frist'" in err
    assert console.json(*words, "--limit", "1")["pairs"] == 1


def test_without_folders_judge_is_the_rounds_stage(console: Console) -> None:
    status, _, err = console("judge")
    assert status == 1 and "no round yet" in err
