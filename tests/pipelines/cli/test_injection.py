"""`clinic inject`: what it makes, says and refuses."""

from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from dataengine.records import INJECTED, INJECTION_KINDS
from pipelines.cli.injection import SOURCES
from pipelines.selections.config import InjectionRun
from storage.opening import create_workspace
from tests.dataengine.injection.test_inject import textured
from tests.pipelines.cli.test_commands import Console


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    """A workspace of ten real photos and one generated image."""
    console = Console(tmp_path / "w", capsys)
    for number in range(11):
        source = "real" if number else "generated"
        folder = tmp_path / source
        folder.mkdir(exist_ok=True)
        Image.fromarray(textured(48, 64, number)).save(folder / f"{number}.png")
    for source in ("real", "generated"):
        status, _, err = console("import", str(tmp_path / source), "--source", source)
        assert status == 0, err
    return console


def test_it_makes_images_once_and_says_what_they_are_worth(console: Console) -> None:
    status, out, err = console("inject", "--images", "source=real", "--kinds", "glyphs,seam")
    assert status == 0, err
    first, note, use = out.splitlines()
    made = int(first.split()[0])
    assert made > 0 and first.endswith(f"0 were there; {made} of {made} selected images are clean")
    assert "glyphs" in first or "seam" in first
    assert note.endswith(
        "not a start: a detector trained on them alone found none of the flaws in 42 generated images."
    )
    assert "publish.injected_limit" in use
    again = console.json("inject", "--images", "source=real", "--kinds", "glyphs,seam")
    assert (again["images"], again["known"], again["clean"]) == (0, made, made)
    more = console.json("inject", "--copies", "2", "--seed", "3", "--set", "injection.least=0.2")
    assert (more["images"], more["clean"]) == (2 * made, made) and more["selected"] >= made
    assert console.json("status")["overview"]["images"][INJECTED] == 3 * made


def test_what_cannot_be_done_is_said_in_one_line(console: Console) -> None:
    for words, reason in (
        (("--images", "source=generated"), "none of the 1 selected images is known to be clean"),
        (("--images", "categry=x"), "images have no 'categry' to select by"),
        (("--kinds", "warp,melt"), f"there is no kind 'melt'; choose from {', '.join(INJECTION_KINDS)}"),
        (("--kinds", "warp,warp"), "repeat one another"),
        (("--kinds", ""), "there is no kind ''"),
        (
            ("--source", "redraw"),
            "needs the id of the generator that redraws; `clinic generators`",
        ),
        (("--source", "redraw", "--generator", "x"), "there is no generator 'x'"),
        (
            ("--source", "redraw", "--generator", "x", "--kinds", "warp"),
            "--kinds belongs to --source operations",
        ),
        (("--generator", "x"), "operations on pixels need no generator"),
        (("--copies", "0"), "copies: Input should be greater than or equal to 1"),
        (("--set", "injection.least=0.9"), "least 0.9 must not be above most 0.5"),
        (("--set", "redraw.steps=0"), "redraw.steps"),
    ):
        for detached in ((), ("--detach",)):
            status, out, err = console("inject", *words, *detached)
            assert (status, out) == (1, "") and reason in err and err.count("\n") == 1, words


def test_detached_work_waits_for_a_worker(console: Console) -> None:
    status, out, _ = console("inject", "--images", "source=real", "--copies", "3", "--detach")
    assert status == 0 and "is queued" in out
    workspace = create_workspace(console.path)
    with workspace.catalog(read_only=True) as catalog:
        (job,) = catalog.jobs.list(kind="inject")
    workspace.close()
    assert job.args["settings"]["copies"] == 3 and job.args["settings"]["images"]["source"] == "real"


def test_help_says_that_operations_are_no_start(capsys: pytest.CaptureFixture[str]) -> None:
    import app

    with pytest.raises(SystemExit):
        app.main(["inject", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "found none of the flaws in 42 generated images" in text
    for setting in ("injection.kinds", "injection.most", "redraw.strength", "copies", "images.category"):
        assert f" {setting} " in text


def test_the_help_knows_every_source() -> None:
    assert get_args(InjectionRun.model_fields["source"].annotation) == SOURCES
