"""`clinic import`, `export`, `push` and `pull` as typed: options, JSON, one clear line on an error."""

import json
from pathlib import Path

import pytest

from app import main
from pipelines.commands import exchange
from pipelines.exchange.datasets import READERS
from pipelines.exchange.export import PARTS
from tests.pipelines.exchange import layouts


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    status = main([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    return said | {"status": status}


def test_the_formats_offered_are_those_that_exist() -> None:
    assert tuple(READERS) == exchange.FORMATS_IN
    assert set(exchange.FORMATS_OUT) == {*PARTS, "hf"}


def test_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layouts.coco(tmp_path / "d")
    at = ("--workspace", str(tmp_path / "w"))
    given = ("import", str(path), "--format", "coco", "--licence", "CC0", *at)
    trial = run(capsys, *given, "--dry-run", "--class", "odd hand=watermark")
    assert (trial["added"], trial["labels"], trial["dry_run"]) == (5, 3, True)
    said = run(capsys, *given)
    assert (said["added"], said["labels"], len(said["refused"])) == (5, 2, 2)  # type: ignore[arg-type]
    assert Path(str(said["problems"])).read_text().count("odd hand") == 4
    out = run(capsys, "export", str(tmp_path / "out"), "--format", "label-studio", "--labelled", *at)
    assert (out["images"], out["masks"]) == (2, 2) and (tmp_path / "out" / "tasks.json").is_file()
    wrong = run(capsys, "export", str(tmp_path / "hub"), "--format", "hf", *at)
    assert wrong["status"] == 1 and "--snapshot" in str(wrong["error"])
    wrong = run(capsys, "export", str(tmp_path / "hub"), "--snapshot", "0" * 64, *at)
    assert wrong["status"] == 1 and not (tmp_path / "hub").exists()
    wrong = run(capsys, "import", str(path), "--class", "no equals", *at)
    assert wrong["status"] == 1 and "expected two names" in str(wrong["error"])


def test_push_and_pull_say_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_URL"):
        monkeypatch.delenv(name, raising=False)
    layouts.picture(tmp_path / "p", "a.png", 1)
    at = ("--workspace", str(tmp_path / "w"))
    run(capsys, "import", str(tmp_path / "p"), *at)
    for command in ("push", "pull"):
        said = run(capsys, command, "--project", "hands", *at)
        assert said["status"] == 1 and "LABEL_STUDIO_API_KEY" in str(said["error"])
        said = run(capsys, command, "--project", "hands", "--token", "x", *at)
        assert "no address" in str(said["error"])
        said = run(capsys, command, "--project", "h", "--token", "x", "--url", "http://127.0.0.1:9", *at)
        assert said["status"] == 1 and "no Label Studio answers" in str(said["error"])
