"""The command line: help that teaches, one clear line on errors, JSON; stages and rounds in this process."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import app
from dataengine.errors import ConfigRefused
from dataengine.records import Label, Snapshot, SnapshotItem
from pipelines import recipes
from pipelines.cli.command import describe_settings, with_settings
from pipelines.config import RoundRecipe
from pipelines.services import generators
from pipelines.services.rounds import start_round
from pipelines.worker import local_runner
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import fake_workspace, fakes
from tests.pipelines.rig import REPOSITORY

EVERY = (
    *("demo", "app", "worker", "import", "generate", "diagnose", "categorize", "write-prompts", "mine"),
    *("pseudo-label", "publish", "retrain", "evaluate", "promote", "treat", "study", "round", "status"),
    *("export", "users", "backup", "restore", "gc", "build-clinic", "check", "dynamics", "highlight", "ask"),
    *("refine", "inpaint", "erase", "benchmarks", "repair", "train", "compare", "judge", "dreambooth"),
    *("gradio", "space", "bayesdiff", "evidence"),
)


class Console:
    """Runs commands on one workspace and keeps what they print."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = app.main(["--workspace", str(self.path), *words])
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err

    def json(self, *words: str) -> Any:
        status, out, err = self(*words, "--json")
        assert status == 0, err
        return json.loads(out)


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(tmp_path / "w", capsys)


@pytest.fixture
def faked(console: Console, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace for a round of fakes, and commands that use them."""
    monkeypatch.setattr(local_runner, "real_models", fakes.fake_models)
    workspace = create_workspace(console.path)
    fake_workspace.prepare(workspace)
    return workspace


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert not [name for name in EVERY if f"\n    {name}" not in text]


@pytest.mark.parametrize("name", EVERY)
def test_every_command_teaches_by_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = help_of(capsys, name)
    assert f"clinic {name}" in text.partition("examples:")[2] or f" {name} " in text.partition("examples:")[2]
    assert "--workspace" in text and "--json" in text


def test_settings_become_help_with_their_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(capsys, "round").split())
    assert "treat.tuning.learning_rate" in text and "generate.seeds_per_prompt" in text
    assert "Images generated from each prompt, each with its own seed. (default: 2)" in text


@pytest.mark.parametrize("name", ["second_detector", "rival"])
def test_a_renamed_setting_is_set_by_either_name(name: str) -> None:
    changed = with_settings(recipes.named("fakes").model_dump(mode="json"), [f"mine.{name}=d2"])
    assert RoundRecipe.model_validate(changed).mine.second_detector == "d2"
    assert "  mine.second_detector\n" in describe_settings(RoundRecipe)


def test_every_setting_is_described() -> None:
    def bare(config: Any, prefix: str) -> list[str]:
        found: list[str] = []
        for name, field in config.model_fields.items():
            inner = type(field.get_default(call_default_factory=True))
            if hasattr(inner, "model_fields"):
                found += bare(inner, f"{prefix}{name}.")
            elif not field.description:
                found.append(prefix + name)
        return found

    assert not bare(RoundRecipe, "")
    assert describe_settings(RoundRecipe).count("(default:") > 60


def test_help_comes_at_once() -> None:
    code = "import app, sys; app.main(['--help'])"
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    after = os.times()
    assert "COMMAND" in done.stdout, done.stderr
    took = after.children_user + after.children_system - before.children_user - before.children_system
    code = "import app, sys\ntry: app.main(['--help'])\nfinally: print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    loaded = done.stdout.partition("LOADED")[2].split()
    assert "argparse" in loaded
    assert not {"pydantic", "numpy", "sqlalchemy", "torch", "gradio", "dbos"} & set(loaded)
    assert took < 1, "seconds of processor time, which other load does not change"


def test_an_error_is_one_clear_line_and_a_status(console: Console) -> None:
    status, out, err = console("status")
    assert status == 1 and out == "" and err.count("\n") == 1
    assert err.startswith("clinic status: there is no workspace in")
    status, out, err = console("status", "--json")
    assert status == 1 and json.loads(out)["error"] in err


def test_a_wrong_setting_is_named_with_its_value(console: Console, faked: Workspace) -> None:
    status, _, err = console("round", "--set", "generate.batch=yes")
    assert status == 1 and "generate.batch" in err and err.count("\n") == 1
    status, _, err = console("round", "--set", "generate.seeds_per_prompt=0")
    assert status == 1 and "greater than or equal to 1 (was 0)" in err
    assert console("round", "--recipe", "dream")[0] == 1


@pytest.mark.parametrize("name", ["DRaFT", "AlignProp", "ReFL", "Focus-N-Fix"])
def test_an_objective_that_raises_a_reward_asks_for_it(console: Console, faked: Workspace, name: str) -> None:
    begin = ("round", "--recipe", "fakes", "--detach", "--objective", name)
    status, _, err = console(*begin)
    assert status == 1 and f"{name} raises the score of a reward, but none is given" in err
    assert err.count("\n") == 1
    with faked.catalog(read_only=True) as catalog:
        assert not catalog.rounds.list()
    asked = console.json(
        *begin, "--seed", "3", "--reward", "pickscore:/m/pick", "--reward", "classifier:/m/c#good"
    )
    with faked.catalog(read_only=True) as catalog:
        tuning = catalog.rounds.get(asked["round"]).recipe["treat"]["tuning"]
    assert [(one["kind"], one["location"], one["label"]) for one in tuning["rewards"]] == [
        ("pickscore", "/m/pick", ""),
        ("classifier", "/m/c", "good"),
    ]
    assert tuning["seed"] == 3 and tuning["pixel"]["weight"] == 0
    assert (tuning["region"] is not None) == (name == "Focus-N-Fix")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--objective", "draft"), "there is no objective 'draft'; there are DiffDoctor,"),
        (("--reward", "clip:/m"), "--reward is raised by an --objective"),
        (("--objective", "DiffDoctor", "--reward", "clip:/m"), "DiffDoctor raises no reward"),
        (
            ("--objective", "DRaFT", "--reward", "/m/pick"),
            "expected clip:LOCATION, pickscore:LOCATION, hpsv2",
        ),
        (("--objective", "DRaFT", "--reward", "clip:"), "a reward needs a scorer"),
        (("--objective", "DRaFT", "--reward", "classifier:/m"), "a classifier needs a label"),
        (("--objective", "DRaFT", "--reward", "pickscore:/m#x", "--set", "treat.x=1"), "treat.x"),
    ],
)
def test_a_wrong_objective_or_reward_is_one_sentence(
    console: Console, faked: Workspace, given: tuple[str, ...], sentence: str
) -> None:
    status, _, err = console("round", "--recipe", "fakes", "--detach", *given)
    assert status == 1 and sentence in err and err.count("\n") == 1


def test_an_objective_comes_before_single_settings(console: Console, faked: Workspace) -> None:
    asked = console.json(
        "round", "--recipe", "fakes", "--detach", "--objective", "DiffDoctor", "--set", "treat.tuning.batch=2"
    )
    with faked.catalog(read_only=True) as catalog:
        tuning = catalog.rounds.get(asked["round"]).recipe["treat"]["tuning"]
    assert (tuning["batch"], tuning["updates"], tuning["weight_decay"]) == (2, 750, 0.1)


def test_settings_are_changed_by_name() -> None:
    settings = {"a": {"b": 1, "c": "x"}, "d": None}
    assert with_settings(settings, ["a.b=2", "a.c=y z", "d=[1]"]) == {"a": {"b": 2, "c": "y z"}, "d": [1]}
    assert settings["a"] == {"b": 1, "c": "x"}
    for wrong in ("a.b", "a.e=1", "a.b.c=1", "=1", "d.e=1"):
        with pytest.raises(ConfigRefused, match=r"a\.b"):
            with_settings(settings, [wrong])


def test_a_round_stage_by_stage(console: Console, faked: Workspace) -> None:
    begun = console.json("generate", "--recipe", "fakes")
    assert begun["result"]["images"] == 12 and begun["stage"] == "generate"
    status, _, err = console("mine")
    assert status == 1 and "is at stage 'diagnose', not at 'mine'" in err
    for name in ("diagnose", "categorize", "write-prompts"):
        assert console(name)[0] == 0
    assert console.json("generate")["stage"] == "generate_hard"
    assert console("diagnose")[0] == 0 and console("mine")[0] == 0
    status, _, err = console("train-teacher")
    assert status == 1 and "are waiting for labels" in err
    assert fake_workspace.answer_queue(faked, begun["round"]) == 6
    for name in ("train-teacher", "pseudo-label", "publish", "retrain", "evaluate", "promote", "treat"):
        assert console(name)[0] == 0, name
    judged = console.json("judge")
    assert judged["result"]["pairs"] == 12
    shown = console("status")[1]
    assert "■" * 16 in shown and "done done" in shown and "none running" in shown
    opened = console.json("study", "open", "--name", "round one")["studies"]
    assert [(each["name"], each["state"]) for each in opened] == [("round one", "open")]
    assert console.json("study", "close", opened[0]["study"])["studies"][0]["state"] == "closed"
    assert "undecided" in console("study")[1]


def test_a_round_in_one_go(console: Console, faked: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_instead_of_waiting(seconds: float) -> None:
        with faked.catalog(read_only=True) as catalog:
            rounds = catalog.rounds.list()
        fake_workspace.answer_queue(faked, rounds[-1].id)

    monkeypatch.setattr(local_runner.time, "sleep", answer_instead_of_waiting)
    done = console.json("round", "--recipe", "fakes", "--local", "--track", "tensorboard")
    assert tracked_figures(console.path / "tracking" / done["round"]) >= {
        *("train_teacher/loss", "retrain/loss", "treat/loss")
    }
    assert done["state"] == "done" and list(done["results"])[-1] == "judge"
    with faked.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list()
        assert {job.state for job in jobs} == {"succeeded"} and len(jobs) == 15
        assert catalog.workers.alive(60) == []


def tracked_figures(folder: Path) -> set[str]:
    """The names of the figures that TensorBoard reads in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("round", "--recipe", "fakes", "--detach"), "--track needs --local"),
        (("retrain", "--recipe", "photo", "--detach"), "leave --detach out"),
        (("refine", "--worker"), "leave --worker out"),
    ],
)
def test_a_tracker_needs_the_work_in_this_process(
    console: Console, faked: Workspace, words: tuple[str, ...], said: str
) -> None:
    status, _, err = console(*words, "--track", "tensorboard")
    assert status == 1 and said in err and err.count("\n") == 1
    with faked.catalog(read_only=True) as catalog:
        assert not catalog.jobs.list()


def test_a_round_is_asked_for_cancelled_and_resumed(console: Console, faked: Workspace) -> None:
    asked = console.json("round", "--recipe", "fakes", "--detach", "--set", "generate.sampling.batch=3")
    assert (asked["state"], asked["stage"]) == ("running", "generate")
    with faked.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(asked["round"])
    assert row.recipe["generate"]["sampling"]["batch"] == 3
    assert console.json("round", "--cancel")["state"] == "cancelled"
    assert console.json("round", "--resume", "--detach")["state"] == "running"


def test_a_stage_that_fails_says_so_and_can_be_run_again(
    console: Console, faked: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise ConfigRefused("the paint is out")

    with monkeypatch.context() as patch:
        patch.setattr(fakes, "generate", refuse)
        status, _, err = console("generate", "--recipe", "fakes")
    assert status == 1
    assert err.startswith("clinic generate: No generator could be drawn with: squares (the paint is out).")
    assert "failed  generate: No generator could be drawn with: squares" in console("status")[1]
    with faked.catalog(read_only=True) as catalog:
        round_id = catalog.rounds.list()[0].id
    assert console.json("generate", "--round", round_id)["result"]["images"] == 12


def test_a_stage_that_a_worker_has_is_left_to_it(console: Console, faked: Workspace) -> None:
    from dataengine.records import WorkerBeat

    row = start_round(faked, recipes.fakes().model_dump(mode="json"))
    with faked.catalog() as catalog:
        catalog.workers.beat(WorkerBeat(id="far-away", host="far", pid=1))
        assert catalog.jobs.claim(f"{row.id}.generate.1", "far-away")
        catalog.commit()
    status, _, err = console("generate")
    assert status == 1 and f"far-away is working on generate of {row.id}" in err


def test_generators_and_detectors_are_taken_off_the_lists_and_put_back(
    console: Console, faked: Workspace
) -> None:
    with faked.catalog() as catalog:
        champion = catalog.detectors.champion()
        assert champion is not None
        for id in ("old-1", "old-2"):
            catalog.detectors.add(replace(champion, id=id, name="old", role="candidate"))
        catalog.commit()
    assert "removed" in console("generators", "--remove", "squares", "--reason", "worn")[1]
    assert console.json("generators")["generators"][0]["removed"] is not None
    assert console("generators", "--restore", "squares")[0] == 0
    assert console.json("generators")["generators"][0]["removed"] is None
    status, _, error = console("detectors", "--retire", champion.id)
    assert status and "is the champion" in error
    status, _, error = console("detectors", "--retire", "old")
    assert status and "give an id: old-1, old-2" in error
    told = console.json("detectors", "--retire", "old-1")
    assert [one["id"] for one in told["retired"]] == ["old-1"]
    assert "old-1" not in {row["detector"] for row in told["detectors"]}
    status, _, error = console("detectors", "--promote", "old-1", "--reason", "after all")
    assert status and "was retired" in error
    assert console.json("detectors", "--restore", "old-1")["retired"] == []
    status, _, error = console("generators", "--remove", "nobody")
    assert status and "no generator 'nobody'" in error


def test_a_class_is_estimated_from_its_settings(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, error = console("generators", "--estimate", "FluxPipeline")
    assert status and "give their folder with --config" in error
    status, _, error = console("generators", "--estimate", "FluxPipeline", "--config", str(tmp_path / "no"))
    assert status and "is no folder" in error
    line = "512² bf16: 1.0 GB to draw, 2.0 GB to diagnose, 3.0 GB to treat (most in an update)"
    found = [{"side": 512, "treating": 3 * 10**9, "text": line}]
    monkeypatch.setattr(generators, "predict_needs", lambda kind, folder: found)
    assert line in console("generators", "--estimate", "FluxPipeline", "--config", str(tmp_path))[1]
    told = console.json("generators", "--estimate", "FluxPipeline", "--config", str(tmp_path))
    assert told["class"] == "FluxPipeline" and told["needs"][0]["treating"] == 3 * 10**9
    # No workspace was begun for it.
    assert not (tmp_path / "workspace").exists()


def test_users_from_the_command_line(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    users = console.json("users", "add", "ada", "--role", "admin", "--role", "rater")["users"]
    assert [(user["name"], user["roles"]) for user in users] == [("ada", ["rater", "admin"])]
    assert console.json("users", "roles", "ada", "--role", "annotator")["users"][0]["roles"] == ["annotator"]
    for action in ("deactivate", "close"):  # the former name is still read
        assert "(deactivated)" in console("users", action, "ada")[1]
        assert "(deactivated)" not in console("users", "activate" if action == "close" else "open", "ada")[1]
    assert console.json("users", "rename", "ada", "lovelace")["users"][0]["name"] == "lovelace"
    assert console.json("users", "rename", "lovelace", "ada")["users"][0]["name"] == "ada"
    status, _, err = console("users", "remove", "bob")
    assert status == 1 and "'bob'" in err
    assert console.json("users", "remove", "ada")["users"] == []


def test_label_classes_from_the_command_line(console: Console) -> None:
    create_workspace(console.path)
    added = console.json("classes", "add", "extra limb", "--color", "#0072b2")["classes"]
    assert [one["name"] for one in added][-1] == "extra limb" and len(added) == 4
    changed = console.json("classes", "change", "4", "--name", "limbs", "--place", "1")["classes"]
    assert next((one["value"], one["name"]) for one in changed) == (4, "limbs")
    assert "(retired)" in console("classes", "change", "4", "--retired")[1]
    assert "(retired)" not in console("classes", "change", "4", "--no-retired")[1]
    for words in (("add", "LIMBS"), ("change", "9", "--name", "x"), ("change", "1", "--color", "red")):
        status, _, error = console("classes", *words)
        assert status == 1 and error


def test_import_export_backup_restore_gc(console: Console, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        from dataengine.images import encode_png

        (pictures / f"{seed}.png").write_bytes(encode_png(fakes.paint("a tree", seed)))
    (pictures / "broken.png").write_bytes(b"no picture")
    found = console.json("import", str(pictures), "--source", "real", "--licence", "CC0")
    assert (found["added"], found["duplicates"]) == (3, 0)
    assert [refusal["name"] for refusal in found["refused"]] == ["broken.png"]
    assert "0 added, 3 duplicates, 1 refused" in console("import", str(pictures))[1]
    assert console.json("export", str(tmp_path / "out"), "--source", "real")["images"] == 3
    assert console.json("backup", str(tmp_path / "all.tar"))["blobs"] >= 3
    assert console.json("gc", "--trial", "--days", "0")["blobs"] == 0
    fresh = Console(tmp_path / "fresh", console._capsys)
    fresh.json("restore", str(tmp_path / "all.tar"))
    assert fresh.json("status")["overview"]["images"] == {"real": 3}
    status, _, err = fresh("restore", str(tmp_path / "all.tar"))
    assert status == 1 and err.count("\n") == 1


def test_erase_says_what_went_and_where_it_had_gone(console: Console, faked: Workspace) -> None:
    with faked.catalog() as catalog:
        images = catalog.images.ids(limit=2)
        for author in ("ada", "ben"):
            catalog.labels.submit(Label(image_id=images[0], author=author, height=32, width=32, clean=True))
        item = SnapshotItem(image_id=images[0], image_sha256="0" * 64, kind="true", target=None, author="ada")
        catalog.snapshots.add(Snapshot(id="s1", manifest="0" * 64, rows=1, composition={"true": 1}), [item])
        catalog.commit()
    status, out, _ = console("erase", "--person", "ada", "--trial")
    assert status == 0 and "would erase 0 images, 1 labels" in out and "labels.author: 1 rows" in out
    assert "snapshots already made from this data, and kept: s1" in out
    erased = console.json("erase", "--person", "ada")
    assert (erased["labels"], erased["images"], erased["snapshots"]) == (1, 0, ["s1"])
    status, out, _ = console("erase", images[0])
    assert status == 0 and "erased 1 images, 1 labels" in out
    assert "snapshot: s1\n    publish a new one" in out
    with faked.catalog(read_only=True) as catalog:
        assert [image.id for image in catalog.images.get_many(images)] == [images[1]]
        events = {event.action: event.actor for event in catalog.audit.list()}
    assert events["erase.images"].endswith("(command line)") and "erase.person" in events
    status, _, err = console("erase", images[0])
    assert status == 1 and "nothing was erased" in err
    for words in ((), (images[1], "--person", "ben")):
        status, _, err = console("erase", *words)
        assert status == 1 and "name what to erase" in err


def test_benchmarks_freezes_what_is_known(console: Console, faked: Workspace) -> None:
    before = console.json("benchmarks")["benchmarks"]
    assert [(one["state"], one["version"]) for one in before] == [("frozen", 1)]
    assert console.json("benchmarks", "freeze")["benchmarks"] == before, "the same images, the same version"
    assert "version 1  frozen" in console("benchmarks")[1]
