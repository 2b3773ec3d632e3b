"""Prompt sets: every layout with its columns, published sets from a folder or a hub, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from dataengine.errors import InputRefused
from pipelines.exchange.prompt_sets import FOLDER, PUBLISHED, PromptRow, find_prompts, read_prompts, thinned
from tests.local_hub import Hub

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tmany meanings\n"
    '"G O" painted on a wall, red\tIllustrations\tWriting & Symbols\t\n'
    '"a ""big"" cat"\tAnimals\tBasic\n'
)


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.txt", "a cat\n\n a   dog \na cat\n", [("a cat", {}), ("a dog", {})]),
        ("a.txt", "\ufeffein Bär\r\nzwei\r\n", [("ein Bär", {}), ("zwei", {})]),
        (
            "a.tsv",
            PARTI,
            [
                ("bond", {"category": "Abstract", "challenge": "Basic", "note": "many meanings"}),
                (
                    '"G O" painted on a wall, red',
                    {"category": "Illustrations", "challenge": "Writing & Symbols"},
                ),
                ('a "big" cat', {"category": "Animals", "challenge": "Basic"}),
            ],
        ),
        ("a.csv", 'Prompts\n"a cat, sitting"\n', [("a cat, sitting", {})]),
        ("a.csv", "caption;Category\na cat, sitting;animal\n", [("a cat, sitting", {"category": "animal"})]),
        ("a.json", '["a", "b", "a"]', [("a", {}), ("b", {})]),
        (
            "a.json",
            '{"anime": ["a"], "photo": ["b"]}',
            [("a", {"category": "anime"}), ("b", {"category": "photo"})],
        ),
        ("a.json", '{"prompts": [{"text": "a", "Challenge": 3}]}', [("a", {"challenge": "3"})]),
        (
            "a.jsonl",
            '{"prompt": "a", "tag": "x", "include": [{"class": "y"}]}\n\n{"prompt": "b"}\n',
            [("a", {"tag": "x"}), ("b", {})],
        ),
    ],
)
def test_every_layout_is_read_with_its_columns(
    name: str, content: str, rows: list[tuple[str, dict[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_prompts(tmp_path / name) == [PromptRow(*row) for row in rows]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_utf_16_of_windows_is_read_and_other_encodings_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("prompt\nein Bär\n", encoding="utf-16")
    assert read_prompts(tmp_path / name)[-1].text == "ein Bär"
    (tmp_path / name).write_text("prompt\nein Bär\n", encoding="latin-1")
    with pytest.raises(InputRefused, match="not UTF-8 text; save it as UTF-8"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "prompt\na cat, sitting\n", "line 2: more cells"),
        ("a.tsv", "prompt\na\tb\n", "line 2: more cells"),
        ("a.csv", "name,category\na,b\n", "no prompt; expected a column named prompt"),
        ("a.json", '{"a": 1}', "no list of prompts"),
        ("a.json", "[1]", "prompt 1: expected a text"),
        ("a.json", "[{]", "is no JSON"),
        ("a.json", '[{"prompt": 7}]', "must be text"),
        ("a.jsonl", '["a"]\n', "must be a JSON object"),
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.docx", "a", "is no file of prompts"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputRefused, match=said):
        read_prompts(tmp_path / name)


def test_a_published_set_is_found_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "parti_prompts.tsv").write_text(PARTI)
    (tmp_path / "DrawBench.json").write_text('["a red car"]')
    (tmp_path / "hpdv2").mkdir()
    for file in PUBLISHED["hpdv2"].files:
        (tmp_path / "hpdv2" / Path(file).name).write_text(json.dumps([f"one of {Path(file).stem}"]))
    assert find_prompts("partiprompts")[0].text == "bond"
    assert find_prompts("drawbench") == [PromptRow("a red car")]
    assert find_prompts("hpdv2")[1] == PromptRow("one of concept-art", {"category": "concept-art"})
    with pytest.raises(InputRefused, match=r"expected a file .* or one of partiprompts, hpdv2, drawbench"):
        find_prompts("geneval")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub that this process knows, with an empty cache."""
    from huggingface_hub import constants

    server = Hub(tmp_path / "hub")
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(constants, name, value)
    yield server
    server.shutdown()
    server.server_close()


def test_published_sets_come_from_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in PUBLISHED.values():
        for file in known.files:
            target = tmp_path / "hub" / known.repository / file
            target.parent.mkdir(parents=True, exist_ok=True)
            style = json.dumps([f"a knight, {target.stem}"])
            texts = {".tsv": PARTI, ".csv": "Prompts,Category\na red car,Colors\n", ".json": style}
            target.write_text(texts[target.suffix])
    monkeypatch.delenv(FOLDER, raising=False)
    assert find_prompts("partiprompts")[0].columns["challenge"] == "Basic"
    assert find_prompts("drawbench") == [PromptRow("a red car", {"category": "Colors"})]
    assert [(row.text, row.columns["category"]) for row in find_prompts("hpdv2")] == [
        (f"a knight, {style}", style) for style in ("anime", "concept-art", "paintings", "photo")
    ]
    assert len(hub.downloads) == 6
    with pytest.raises(InputRefused, match="hpdv2 cannot be downloaded from zhwang/HPDv2"):
        shutil.rmtree(tmp_path / "hub" / "zhwang")
        shutil.rmtree(tmp_path / "cache")
        find_prompts("hpdv2")


def test_a_limit_keeps_all_parts_of_a_sorted_set() -> None:
    rows = [PromptRow(str(number)) for number in range(10)]
    assert [row.text for row in thinned(rows, 4)] == ["0", "2", "5", "7"]
    assert thinned(rows, None) == thinned(rows, 10) == thinned(rows, 99) == rows
