"""`clinic repair` and `clinic study open --repairs` as commands."""

from pathlib import Path

import pytest
from PIL import Image as Picture

from pipelines.runtime import context as runtime_context
from tests.pipelines.cli.test_commands import Console
from tests.pipelines.repair.world import add_image, make_context, models, scene

QUICK = ("--set", "repair.draws=2", "--set", "repair.repeats=1", "--set", "sampling.steps=2")


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(runtime_context, "real_models", lambda device="cpu": models())
    workspace = make_context(tmp_path / "w").workspace
    add_image(workspace, scene(1), 1)
    workspace.close()
    return Console(tmp_path / "w", capsys)


def test_files_are_repaired_into_a_folder(console: Console, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Picture.fromarray(scene(5)).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("none")
    command = (
        "repair",
        str(tmp_path / "in"),
        "--generator",
        "squares",
        "--out",
        str(tmp_path / "out"),
        *QUICK,
    )
    status, out, err = console(*command)
    assert status == 0, err
    assert out.startswith("squares redraws what first finds; other chooses\n")
    assert "1 image repaired, 0 left as they were, 1 refused; 1 of 1 region redrawn" in out
    assert f"refused: {tmp_path / 'in/b.png'}: not a PNG" in out and "gallery.html" in out
    again = console.json(*command)
    assert (again["known"], again["repaired"], again["chooser"]) == (1, 1, "other")
    assert {each.name for each in (tmp_path / "out").glob("*.*")} >= {"a.png", "report.csv", "gallery.html"}
    other = console.json(*command, "--seed", "9", "--chooser", "first", "--prompt", "a wall")
    assert (other["known"], other["chooser"]) == (0, None) and "the same weights" in other["notes"][0]


def test_images_of_the_catalog_are_proposed_and_compared(console: Console) -> None:
    status, out, err = console("repair", "--images", "category=hand", "--generator", "squares", *QUICK)
    assert status == 0 and "accept or reject them at /curate" in out, err
    status, _, err = console("study", "open", "--repairs")
    assert status == 1 and "no repair has been accepted yet" in err
    queued = console.json("repair", "--images", "--generator", "squares", "--detach", *QUICK)
    assert queued["kind"] == "repair" and queued["args"]["settings"]["chooser"] == "other"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give image files or folders, or a selection"),
        (("a.png", "--images"), "give image files or folders, or a selection"),
        (("a.png",), "name the folder of the results with --out"),
        (("a.png", "--out", "o", "--detach"), "--detach needs --images"),
        (("a.png", "--out", "o", "--class", "hand"), "--class needs --images"),
        (("--images", "--out", "o"), "--out is for image files"),
        (("a.png", "--out", "o"), "a repair needs a generator"),
        (("a.png", "--out", "o", "--generator", "gone"), "gone"),
        (("a.png", "--out", "o", "--generator", "squares", "--detector", "gone"), "gone"),
        (("a.png", "--out", "o", "--generator", "squares", "--chooser", "gone"), "gone"),
        (("gone.png", "--out", "o", "--generator", "squares"), "there is no folder or image at gone.png"),
        (("--images", "--generator", "squares", "--class", "gone"), "there is no such label class"),
        (("--images", "category=gone", "--generator", "squares"), "no image matches category=gone"),
        (("a.png", "--out", "o", "--generator", "squares", "--set", "repair.least=2"), "less than 1"),
        (("a.png", "--out", "o", "--generator", "squares", "--set", "draws=2"), "expected NAME=VALUE"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    console: Console, options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = console("repair", *options)
    assert status == 1 and said in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_help_teaches_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    import app

    with pytest.raises(SystemExit):
        app.main(["repair", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "A result is taken only if" in text and "repair.draws" in text and "report.csv" in text
