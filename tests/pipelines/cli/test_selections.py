"""`diagnose`, `categorize`, `mine`, `pseudo-label` and `hard-categories` on any images, as commands."""

from pathlib import Path

import pytest
from PIL import Image

from dataengine.records import DetectorVersion
from pipelines import recipes
from pipelines.runtime import context as runtime_context
from pipelines.runtime.models import real_models
from pipelines.services.rounds import start_round
from storage.opening import create_workspace
from tests import fakes
from tests.fakes import FIRST, TinyDetector, paint
from tests.pipelines.cli.test_commands import Console


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    """A workspace into which a folder of pictures was imported; commands use fake models."""
    monkeypatch.setattr(runtime_context, "real_models", fakes.fake_models)
    console, folder = Console(tmp_path / "w", capsys), tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(paint(f"a photo of a {'hand' if number % 2 else 'tree'}", number)).save(
            folder / f"{number}.png"
        )
    table = "\n".join(["file_name,category", *(f"{number}.png,own" for number in range(3))])
    (tmp_path / "table.csv").write_text(table + "\n")
    status, _, err = console(
        "import", str(folder), "--source", "imported", "--prompts", str(tmp_path / "table.csv")
    )
    assert status == 0, err
    return console


def add_detector(console: Console) -> None:
    workspace = create_workspace(console.path)
    folder = TinyDetector(FIRST, "first").save(console.path / "models" / "first")
    version = DetectorVersion(id="first", name="redness", checkpoint=workspace.checkpoints.publish(folder))
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.detectors.promote("first", "test", "the first")
        catalog.commit()
    workspace.close()


def test_the_whole_way_without_a_round(console: Console) -> None:
    status, _, err = console("diagnose")
    assert status == 1 and "no champion detector" in err and "clinic detectors --add" in err
    add_detector(console)
    status, out, err = console("diagnose")
    assert status == 0 and out.startswith("12 images predicted by redness, "), err
    assert console("diagnose")[1].startswith("0 images predicted by redness, 0 flagged; 12 of 12 predicted")
    status, out, _ = console("categorize", "--images", "source=imported", "--model", "reader")
    assert status == 0 and out.startswith("9 of 9 images without a category got one: ") and "3 own" in out
    status, out, _ = console("hard-categories", "--images", "source=imported")
    assert status == 0 and "own" in out and "too few" in out
    mined = console.json("mine", "--images", "source=imported", "split=train", "--set", "mine.budget=3")
    assert mined["queued"] == 3 and mined["round"].startswith("mine-")
    labelled = console.json("pseudo-label")
    train = console.json("diagnose", "--images", "split=train")["selected"]
    assert labelled["images"] == train - 3 and labelled["detector"] == "first"


def test_what_cannot_be_done_is_said_in_one_line(console: Console) -> None:
    add_detector(console)
    for words, reason in (
        (("diagnose", "--images", "category=zebra"), "no image matches category=zebra"),
        (("diagnose", "--images", "categry=own"), "images have no 'categry' to select by"),
        (("diagnose", "--detector", "absent"), "no detector 'absent'"),
        (("diagnose", "--images", "--round", "r"), "--round and --engine belong to a stage of a round"),
        (("mine", "--images", "--engine", "ray"), "--round and --engine belong to a stage of a round"),
        (("diagnose", "--ray", "num_gpus=0.5"), "--ray needs --engine ray"),
        (("diagnose", "--engine", "ray", "--ray", "gpus=1"), "--ray gpus=1: expected NAME=VALUE"),
        (("mine",), "has predicted none of these 12 images; run `clinic diagnose`"),
        (("diagnose", "--set", "batches=3"), "--set batches=3: expected NAME=VALUE"),
    ):
        status, out, err = console(*words)
        assert (status, out) == (1, "") and reason in err and err.count("\n") == 1, words


def test_detached_work_waits_for_a_worker_with_todays_champion(console: Console) -> None:
    add_detector(console)
    status, out, _ = console("diagnose", "--images", "category=own", "--detach")
    assert status == 0 and "is queued" in out
    workspace = create_workspace(console.path)
    with workspace.catalog(read_only=True) as catalog:
        (job,) = catalog.jobs.list(kind="diagnose")
    workspace.close()
    assert job.args["settings"]["detector"] == "first"
    assert job.args["settings"]["images"]["category"] == "own"
    assert console("diagnose", "--images", "category=zebra", "--detach")[0] == 1, (
        "refused before it is queued"
    )


def test_with_a_round_the_command_stays_its_stage(console: Console) -> None:
    add_detector(console)
    workspace = create_workspace(console.path)
    row = start_round(workspace, recipes.fakes().model_dump(mode="json"), "test")
    workspace.close()
    status, _, err = console("diagnose")
    assert status == 1 and f"{row.id} is at stage 'generate', not at 'diagnose'" in err
    assert console("diagnose", "--images")[1].startswith("12 images predicted")


def test_help_shows_the_filter_and_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    import app

    for name, setting in (("diagnose", "batch"), ("mine", "mine.budget"), ("categorize", "categorize.model")):
        with pytest.raises(SystemExit):
            app.main([name, "--help"])
        text = capsys.readouterr().out
        assert "--images [FILTER ...]" in text and "\n  " + setting in text and "images.category" in text


@pytest.mark.parametrize("location", ["/nonexistent", "no such model"])
def test_a_model_that_cannot_be_loaded_is_one_line(
    console: Console, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.setattr(runtime_context, "real_models", real_models)
    status, _, err = console("categorize", "--model", location)
    assert status == 1 and f"{location} cannot be loaded as a VQA model" in err and err.count("\n") == 1


def test_hard_categories_need_a_detector_that_is_there(console: Console) -> None:
    assert "no champion detector" in console("hard-categories")[2]
    add_detector(console)
    assert "no detector 'absent'" in console("hard-categories", "--detector", "absent")[2]
    assert "run `clinic categorize` and `clinic diagnose` first" in console("hard-categories")[1]
