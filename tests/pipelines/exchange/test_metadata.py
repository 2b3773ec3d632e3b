"""Tables and sidecars: whatever they hold becomes a note or a refusal that names what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.errors import InputRefused
from pipelines.exchange import metadata
from pipelines.exchange.metadata import Note, parse_note, read_plain, read_sidecar, read_table

json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["prompt", "seed", "category", "licence", "generator", "settings", "other"])


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(keys, json_values, max_size=6))
def test_any_object_is_a_sound_note_or_refused(said: dict) -> None:
    try:
        note = parse_note(said)
    except InputRefused as error:
        assert any(word in str(error) for word in keys.elements)
        return
    assert note.seed is None or 0 <= note.seed < 2**63
    assert isinstance(note.settings, dict) and "\0" not in note.prompt
    json.dumps([note.prompt, note.category, note.settings])
    note.prompt.encode()


@settings(max_examples=80, deadline=None)
@given(body=st.binary(max_size=60))
def test_any_sidecar_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    picture = tmp_path_factory.mktemp("s") / "a.png"
    picture.with_suffix(".json").write_bytes(body)
    note = read_sidecar(picture)
    assert isinstance(note, Note) and (not note.problem or "a.json" in note.problem)


def test_sidecars_in_order_and_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "a.b.png"
    assert read_sidecar(picture) is None
    (tmp_path / "a.b.json").write_text('\ufeff{"prompt": "from json", "unknown": 1}', encoding="utf-8")
    assert read_sidecar(picture) == Note(prompt="from json")
    (tmp_path / "a.b.txt").write_text("from text\n")
    assert read_sidecar(picture) == Note(prompt="from text")
    (tmp_path / "a.b.txt").write_bytes(b"caf\xe9")
    assert read_sidecar(picture) == Note(prompt="from json"), "the other one counts"
    (tmp_path / "a.b.json").unlink()
    note = read_sidecar(picture)
    assert note is not None and "not UTF-8" in note.problem
    (tmp_path / "a.b.txt").unlink()
    for body, reason in (
        ("[1]", "a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"seed": Infinity}', "Inf"),
    ):
        (tmp_path / "a.b.json").write_text(body)
        note = read_sidecar(picture)
        assert note is not None and reason in note.problem and "comes without it" in note.problem
    monkeypatch.setattr(metadata, "MAX_SIDECAR_BYTES", 5)
    note = read_sidecar(picture)
    assert note is not None and "larger than 5" in note.problem


@pytest.mark.parametrize("seed", [-1, 1.5, True, "x", "random", 2**63, 1e300, float("nan"), "NaN", [1], "-1"])
def test_what_is_no_seed_is_unknown_and_costs_nothing_else(seed: object) -> None:
    assert parse_note({"prompt": "a hand", "seed": seed}) == Note(prompt="a hand")


@pytest.mark.parametrize(
    ("written", "seed"), [(7, 7), (7.0, 7), ("7", 7), ("7.0", 7), (" 8 ", 8), (0, 0), (2**63 - 1, 2**63 - 1)]
)
def test_seeds_are_whole_numbers(written: object, seed: int) -> None:
    assert parse_note({"seed": written}).seed == seed


A, B = Note(prompt="a hand, waving", seed=7), Note(prompt="a face")
ROWS = {
    "plain": b'file_name,prompt,seed\na.png,"a hand, waving",7\nb.png,a face,\n',
    "spaces": b'file_name, prompt, seed\na.png, "a hand, waving", 7\nb.png, a face, \n',
    "semicolons": b"file_name;prompt;seed\r\na.png;a hand, waving;7\r\nb.png;a face;\r\n",
    "tabs": b"file_name\tprompt\tseed\na.png\ta hand, waving\t7.0\nb.png\ta face\t\n",
    "utf-16": "file_name\tprompt\tseed\na.png\ta hand, waving\t7\nb.png\ta face\tNaN\n".encode("utf-16"),
    "text": b'file,text,seed\na.png,"a hand, waving",7\nb.png,a face,-1\n',
    "caption": b'\xef\xbb\xbffile_name,caption,seed\n.\\a.png,"a hand, waving",7\nb.png,a face,\n',
}


@pytest.mark.parametrize("name", ROWS)
def test_tables_as_people_and_their_tools_write_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(ROWS[name])
    assert read_table(tmp_path) == ({"a.png": A, "b.png": B}, [], ())


def test_json_lines_and_columns_that_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a hand, waving", "seed": 7, "likes": 3}\n\n'
        '{"file_name": "sub\\\\b.png", "prompt": "a face", "caption": "no prompt", "seed": null}\n'
    )
    found = read_table(tmp_path)
    assert (found.notes, found.refused) == ({"a.png": A, "sub/b.png": B}, [])
    assert found.losses == ("columns of the table that are not used: likes",)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"\n')
    with pytest.raises(InputRefused, match="not valid JSON"):
        read_table(tmp_path)


def test_tables(tmp_path: Path) -> None:
    assert read_table(tmp_path) == ({}, [], ())
    table = tmp_path / "metadata.csv"
    table.write_text('\ufefffile_name,prompt,seed\n./a.png,"one, two",0\nb.png\n', encoding="utf-8")
    found, refused, _ = read_table(tmp_path)
    assert found == {"a.png": Note(prompt="one, two", seed=0), "b.png": Note()} and not refused
    for content in (b"", b"prompt\nx\n", b"file_name\n\xff\n", b"file_name,prompt\na," + b"x" * 200_000):
        table.write_bytes(content)
        with pytest.raises(InputRefused):
            read_table(tmp_path)
    with pytest.raises(InputRefused, match="cannot be read"):
        read_table(tmp_path, tmp_path / "other.csv")


def test_links_and_folders_are_no_plain_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("link", "absent", "."):
        with pytest.raises(InputRefused):
            read_plain(tmp_path / name, 100)
