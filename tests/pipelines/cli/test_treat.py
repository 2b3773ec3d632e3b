"""`clinic treat GENERATOR`, with fakes: one output folder, resumed by the same call, swept, tracked."""

import csv
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from dataengine.images import encode_png
from pipelines.generators import strengths
from pipelines.runtime import context as contexts
from pipelines.services.standalone import treatment
from storage.opening import create_workspace
from tests import fake_workspace, fakes
from tests.pipelines.cli.test_commands import Console

SMALL = (
    *("--set", "tuning.updates=2", "--set", "tuning.sampling.batch=4", "--set", "judge_seeds=1"),
    *("--set", "tuning.guard.prompts=2"),
)
PROMPTS = [f"a {name}, number {number}" for number in range(3) for name in ("hand", "face", "house")]


def fake_context(workspace: Any, device: Any = None, report: Any = None) -> contexts.Context:
    return contexts.Context(workspace, fakes.fake_models(), report)


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(contexts, "real_context", fake_context)
    monkeypatch.setattr("dataengine.treatment.tuning.sharing.set_strength", lambda family, strength: None)
    monkeypatch.chdir(tmp_path)
    console = Console(tmp_path / "w", capsys)
    with closing(create_workspace(console.path)) as workspace:
        fake_workspace.prepare(workspace, real=24)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return console


def treat(console: Console, *words: str, out: str = "out") -> Any:
    return console.json("treat", "squares", "--prompts", "prompts.txt", "--out", out, *SMALL, *words)


def test_one_folder_holds_everything(console: Console, tmp_path: Path) -> None:
    found = treat(console)
    out = tmp_path / "out"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if ".clinic" not in path.parts}
    assert names >= {"figures.json", "looks.csv", "pairs.csv", "pairs.png", "strip.png", "strength.png"}
    assert names >= {"lora/README.md", "lora/treatment.json", "lora/treated.json", "lora/before_after.png"}
    figures = json.loads((out / "figures.json").read_text())
    similarity = figures["judged"]["similarity"]
    # Every fifth of nine prompts is held out; some of the squares are still there afterwards.
    assert figures["judged"]["pairs"] == 2 and figures["treated"] == found["treated"]
    assert similarity["lpips"] is None and "LPIPS not measured" in similarity["note"]
    rows = list(csv.DictReader((out / "pairs.csv").open()))
    assert {row["prompt"] for row in rows} == {PROMPTS[0], PROMPTS[5]}
    measured = [float(row["psnr"]) for row in rows if row["psnr"]]
    assert similarity["identical"] == len(rows) - len(measured)
    if measured:
        assert similarity["psnr"]["mean"] == pytest.approx(np.mean(measured))
    card = (out / "lora" / "README.md").read_text()
    assert "![before_after](before_after.png)" in card and "Before against after: " in card
    for name in ("pairs.png", "strip.png", "strength.png"):
        with Image.open(out / name) as sheet:
            assert min(sheet.size) > 200


def test_the_same_call_resumes_and_another_one_is_refused(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = treat(console)
    monkeypatch.setattr(strengths, "draw_strengths", None)
    assert treat(console) == first
    status, _, err = console("treat", "squares", "--prompts", "prompts.txt", "--out", "out", "--seed", "3")
    assert status == 1 and "nothing was overwritten" in err and err.count("\n") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    status, _, err = console("treat", "squares", "--prompts", "prompts.txt", "--out", "mine")
    assert status == 1 and "holds something already" in err


def test_a_sweep_names_the_best_value(console: Console, tmp_path: Path) -> None:
    table = treat(console, "--sweep", "tuning.learning_rate=1e-4,2e-4", out="sweep")
    assert [row["value"] for row in table["rows"]] == [1e-4, 2e-4] and table["rule"] == treatment.RULE
    assert (tmp_path / "sweep" / "tuning.learning_rate=0.0001" / "figures.json").is_file()
    written = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [float(row["value"]) for row in written] == [1e-4, 2e-4]
    assert table["best"] == treatment.best_value(table["rows"])


@pytest.mark.parametrize(
    ("psnr", "ssim", "lpips", "within"),
    [
        (20.1, 0.76, 0.19, True),
        (20.0, 0.76, 0.19, False),
        (20.1, 0.75, 0.19, False),
        (20.1, 0.76, 0.2, False),
        (20.1, 0.76, None, True),
        (None, 1.0, 0.0, True),
    ],
)
def test_the_rule_of_the_best_value(psnr: Any, ssim: Any, lpips: Any, within: bool) -> None:
    """PSNR > 20, SSIM > 0.75, LPIPS < 0.2, of which only what was measured counts."""
    measures = {"psnr": psnr, "ssim": ssim, "lpips": lpips}
    similarity = {name: None if value is None else {"mean": value} for name, value in measures.items()}

    def row(value: float, after: float, treated: str | None = "g") -> dict[str, Any]:
        confidence = {"before": 0.5, "after": after, "ratio": after / 0.5}
        judged = {"mean_confidence": confidence, "similarity": similarity}
        figures = {"kept": 1, "updates": 2, "worse": 0, "treated": treated, "judged": judged}
        return treatment.sweep_row(value, figures)

    rows = [row(1.0, 0.3), row(2.0, 0.1), row(3.0, 0.05, treated=None), row(4.0, 0.2)]
    assert treatment.best_value(rows) == (2.0 if within else None)
    assert treatment.best_value([row(1.0, 0.5), row(2.0, 0.6)]) is None, "no better than the base"


def test_real_images_that_cannot_be_used_are_named(console: Console, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, caption in (("good", "a photo of a hand"), ("silent", "")):
        pixels = fakes.paint("a photo of a hand", len(name), flawless=True)
        (photos / f"{name}.png").write_bytes(encode_png(pixels))
        (photos / f"{name}.txt").write_text(caption)
    (photos / "silent.txt").unlink()
    (photos / "broken.png").write_bytes(b"not an image")
    words = ("treat", "squares", "--prompts", "prompts.txt", "--real", "photos", "--out", "out", *SMALL)
    status, out, err = console(*words)
    assert status == 0, err
    assert "note: real image broken.png was refused" in out and "1 real images have no caption" in out
    status, _, err = console(*words[: -len(SMALL) - 1], "other", "--real", "nowhere")
    assert status == 1 and "--real nowhere: there is no such folder" in err


def test_sequential_tuning_treats_what_the_first_run_made(console: Console, tmp_path: Path) -> None:
    found = treat(console, "--preset", "sequential-on-detector", "--set", "tuning.sampling.steps=5")
    first, second = found["runs"]
    assert second["generator"] == first["treated"] and second["treated"] != first["treated"]
    config = json.loads((tmp_path / "out" / "2-regions" / "figures.json").read_text())["config"]
    assert config["region"]["reference"] == "given"
    assert (tmp_path / "out" / "1-whole-image" / "lora" / "README.md").is_file()


def test_figures_go_to_tensorboard(console: Console, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    AcceleratorState._reset_state(reset_partial_state=True)
    treat(console, "--track", "tensorboard")
    (folder,) = (tmp_path / "out" / "tracking").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


def test_figures_go_to_trackio_on_this_machine(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)

    def refuse(*_: Any) -> None:
        raise AssertionError("a tracker on this machine connects to nothing")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    AcceleratorState._reset_state(reset_partial_state=True)
    treat(console, "--track", "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("artifact-clinic")
    logs = SQLiteStorage.get_logs("artifact-clinic", run)
    assert [(log["step"], log["loss"]) for log in logs] == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(
    console: Console, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    status, _, err = console(
        "treat", "squares", "--prompts", "prompts.txt", "--out", "out", *SMALL, "--track", name
    )
    assert status == 1 and f"the tracker {name} is not installed here: pip install {name}" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "o"), "name the GENERATOR to treat"),
        (("squares", "--prompts", "prompts.txt"), "name the folder of the results with --out"),
        (("squares", "--out", "o"), "give the prompts with --prompts FILE"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--category", "hand"), "or categories"),
        (("squares", "--out", "o", "--prompts", "nowhere.txt"), "there are no prompts at 'nowhere.txt'"),
        (("squares", "--out", "o", "--prompts", "one.txt"), "of 1 prompts none is left to treat on"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--preset", "magic"), "no preset 'magic'"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--preset", "draft"), "raises the score"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--sweep", "x"), "two values or more"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--set", "tuning.x=1"), "listed by `--help`"),
        (("squares", "--out", "o", "--prompts", "prompts.txt", "--round", "r"), "leave the GENERATOR out"),
        (("nobody", "--out", "o", "--prompts", "prompts.txt"), "there is no generator 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    console: Console, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "one.txt").write_text("a hand\n")
    status, _, err = console("treat", *words)
    assert status == 1 and said in err and err.count("\n") == 1, err
    assert not (tmp_path / "o").exists(), "the corrected call may name that folder again"


def test_a_detector_is_asked_for_without_a_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    assert app.main(["treat", "somewhere", "--prompts", "prompts.txt", "--out", "o"]) == 1
    assert "name the detector with --detector" in capsys.readouterr().err


def test_regularisation_without_images_says_how(console: Console) -> None:
    with closing(create_workspace(console.path.with_name("empty"))) as workspace:
        fake_workspace.prepare(workspace, real=0)
    console.path = console.path.with_name("empty")
    status, _, err = console("treat", "squares", "--prompts", "prompts.txt", "--out", "o", *SMALL)
    assert status == 1 and "--real DIR" in err and "diffdoctor-without-regularisation" in err


@pytest.mark.treating
def test_a_real_generator_is_treated_without_a_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import app

    words = ["treat", "clinic-flux", "--detector", "clinic", "--category", "hand", "--preset", "cpu-smoke"]
    words += ["--out", str(tmp_path / "out"), "--json", "--set", "tuning.guard.attributes=[-1,1]"]
    capsys.readouterr()
    status = app.main(words)
    found = json.loads(capsys.readouterr().out)
    assert status == 0 and found["treated"], found
    lora = tmp_path / "out" / "lora"
    assert {path.name for path in lora.iterdir()} >= {
        *("pytorch_lora_weights.safetensors", "comfyui_lora.safetensors", "README.md", "before_after.png")
    }
    assert found["judged"]["similarity"]["psnr"]["mean"] > 20
    with Image.open(tmp_path / "out" / "strength.png") as sheet:
        assert sheet.width > 700
