"""`clinic import`, `export`, `push` and `pull` as typed: options, JSON, one clear line on an error."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from app import COMMANDS, main
from pipelines.cli import exchange
from pipelines.cli.main import build_parser
from pipelines.exchange.formats import FORMATS
from pipelines.exchange.writers.snapshot_folder import PARTS
from storage.opening import open_workspace
from tests.pipelines.exchange import layouts, pictures


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    status = main([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    return said | {"status": status}


def test_the_formats_offered_for_export_are_those_that_exist() -> None:
    assert set(exchange.FORMATS_OUT) == {*PARTS, "hf"}


def test_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layouts.coco(tmp_path / "d")
    at = ("--workspace", str(tmp_path / "w"))
    given = ("import", str(path), "--format", "coco", "--licence", "CC0", *at)
    trial = run(capsys, *given, "--dry-run", "--class", "odd hand=watermark")
    assert (trial["added"], trial["labels"], trial["dry_run"]) == (5, 3, True)
    said = run(capsys, *given)
    assert (said["added"], said["labels"], len(said["refused"])) == (5, 1, 2)  # type: ignore[arg-type]
    assert Path(str(said["problems"])).read_text().count("odd hand") == 4
    rest = run(capsys, *given, "--partial")
    assert (rest["added"], rest["labels"]) == (0, 1), "half a label is kept when it is asked for"
    out = run(capsys, "export", str(tmp_path / "out"), "--format", "label-studio", "--labelled", *at)
    assert (out["images"], out["masks"]) == (2, 2) and (tmp_path / "out" / "tasks.json").is_file()
    wrong = run(capsys, "export", str(tmp_path / "hub"), "--format", "hf", *at)
    assert wrong["status"] == 1 and "--snapshot" in str(wrong["error"])
    wrong = run(capsys, "export", str(tmp_path / "hub"), "--snapshot", "0" * 64, *at)
    assert wrong["status"] == 1 and not (tmp_path / "hub").exists()
    wrong = run(capsys, "import", str(path), "--class", "no equals", *at)
    assert wrong["status"] == 1 and "expected two names" in str(wrong["error"])


def test_public_sets_are_listed_with_commands_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    sets = run(capsys, "datasets")["datasets"]
    assert isinstance(sets, list) and {one["format"] for one in sets} >= {
        "synthscars",
        "richhf",
        "pal4vst",
        "hadm",
    }
    for one in sets:
        words = shlex.split(one["imports"])
        assert words[:2] == ["clinic", "import"]
        options = build_parser(COMMANDS).parse_args(words[1:])
        assert options.format == one["format"] in FORMATS and options.run is exchange.import_data
        assert all(one[name] for name in ("name", "images", "labels", "licence", "page", "get")), one
        assert one["page"].startswith("https://")
    by_name = {one["name"]: one for one in sets}
    assert (by_name["SynthScars"]["images"], by_name["SynthScars"]["licence"]) == ("12,236", "Apache-2.0")
    assert main(["datasets"]) == 0
    said = capsys.readouterr().out
    assert all(one["imports"] in said and one["licence"] in said for one in sets)


@pytest.mark.parametrize("format", ["synthscars", "richhf", "pal4vst", "hadm"])
def test_a_public_sets_command_imports_its_layout(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = (one["imports"] for one in run(capsys, "datasets")["datasets"] if one["format"] == format)  # type: ignore[attr-defined]
    words = shlex.split(command)[1:]
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / words[1].removesuffix(".zip")
    folder.mkdir()
    getattr(layouts, format)(folder)
    if format == "richhf":
        (folder / "pick-a-pic").rename(tmp_path / "pickapic")
    if words[1].endswith(".zip"):
        shutil.make_archive(str(folder), "zip", folder)
    done = run(capsys, *words, "--workspace", str(tmp_path / "w"))
    assert done["status"] == 0 and done["labels"], done


def made(format: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """A dataset of that format, and the words that import it."""
    if format == "coco":
        return [str(layouts.coco(folder)), "--class", "odd hand=watermark"]
    if format == "pal4vst":
        layouts.pal4vst(folder)
        return [str(folder), "--one-class", "watermark"]
    if format == "richhf":
        return [str(folder), "--images", str(layouts.richhf(folder))]
    if format == "hadm":
        layouts.hadm(folder)
        return [str(folder)]
    if format == "folder":
        layouts.picture(folder, "a.png", 1)
        return [str(folder)]
    if format == "hf":
        return [str(parquet(folder)), "--column", "image=photo", "--column", "mask=flaws"]
    # What other formats look like is what we export.
    path = layouts.coco(folder / "coco")
    at = ("--workspace", str(folder / "from"))
    run(capsys, "import", str(path), "--format", "coco", "--class", "odd hand=watermark", *at)
    run(capsys, "export", str(folder / "out"), "--format", format, *at)
    return [str(folder / "out")]


def parquet(folder: Path) -> Path:
    """Two pictures and a mask in columns of other people's names."""
    import pyarrow
    from pyarrow.parquet import write_table

    pixels = [layouts.picture(folder / "p", f"{number}.png", number).read_bytes() for number in (1, 2)]
    mask = pictures.encoded((layouts.ring() > 0).astype("uint8") * 255)
    table = {
        "photo": [{"bytes": one, "path": None} for one in pixels],
        "flaws": [{"bytes": mask, "path": None}, None],
    }
    (folder / "set").mkdir()
    write_table(pyarrow.table(table), folder / "set" / "train.parquet")
    return folder / "set"


@pytest.mark.parametrize(
    ("format", "added", "labels", "refused"),
    [
        ("folder", 1, 0, 0),
        ("coco", 5, 3, 0),
        ("masks", 5, 3, 0),
        ("hf", 2, 1, 0),
        ("pal4vst", 2, 2, 1),
        ("richhf", 2, 2, 1),
        ("hadm", 2, 2, 0),
        ("label-studio", 5, 3, 0),
    ],
)
def test_every_format_as_typed(
    format: str, added: int, labels: int, refused: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run counts what the run keeps and keeps nothing itself; the same again adds nothing."""
    words = made(format, tmp_path / "d", capsys)
    at = ("--workspace", str(tmp_path / "w"))
    given = ("import", *words, "--format", format, "--source", "imported", "--licence", "CC-BY-4.0", *at)
    trial, kept, again = run(capsys, *given, "--dry-run"), run(capsys, *given), run(capsys, *given)
    for said in (trial, kept):
        counts = (said["status"], said["added"], said["labels"], len(said["refused"]))  # type: ignore[arg-type]
        assert counts == (0, added, labels, refused)
    assert trial["problems"] is None and bool(kept["problems"]) == bool(kept["refused"] or kept["alike"])
    assert (again["added"], again["duplicates"], again["labels"]) == (0, added, 0)
    workspace = open_workspace(tmp_path / "w")
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
    workspace.close()
    assert len(images) == added
    assert {image.source for image in images} == {"imported"}
    assert {image.licence for image in images} == {"CC-BY-4.0"}


def test_help_is_printed_from_the_table_of_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    told = said.partition("layout of the dataset: ")[2].partition("--source")[0]
    assert all(f"{name} ({one.what}: {one.expects})" in told for name, one in FORMATS.items())


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
        key = ("--token-file", str(tmp_path / "token"))
        (tmp_path / "token").unlink(missing_ok=True)
        said = run(capsys, command, "--project", "hands", *key, *at)
        assert "cannot be read" in str(said["error"])
        (tmp_path / "token").write_text("\n")
        assert "is empty" in str(run(capsys, command, "--project", "hands", *key, *at)["error"])
        (tmp_path / "token").write_text("x\n")
        said = run(capsys, command, "--project", "hands", *key, *at)
        assert "is not a URL" in str(said["error"])
        said = run(capsys, command, "--project", "h", *key, "--url", "http://127.0.0.1:9", *at)
        assert said["status"] == 1 and "no Label Studio answers" in str(said["error"])


def test_a_token_as_an_argument_is_taken_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.picture(tmp_path / "p", "a.png", 1)
    at = ("--workspace", str(tmp_path / "w"))
    run(capsys, "import", str(tmp_path / "p"), *at)
    assert main(["push", "--project", "h", "--token", "verysecret", "--url", "http://127.0.0.1:9", *at]) == 1
    said = capsys.readouterr().err
    assert "--token is deprecated" in said and "--token-file" in said and "verysecret" not in said
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    shown = capsys.readouterr().out
    assert "--token-file" in shown and "--token " not in shown
