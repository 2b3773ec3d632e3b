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
    try:
        assert isinstance(read_sidecar(picture), Note)
    except InputRefused as error:
        assert "a.json" in str(error)


def test_sidecars_in_order_and_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "a.b.png"
    assert read_sidecar(picture) is None
    (tmp_path / "a.b.json").write_text('\ufeff{"prompt": "from json", "unknown": 1}', encoding="utf-8")
    assert read_sidecar(picture) == Note(prompt="from json")
    (tmp_path / "a.b.txt").write_text("from text\n")
    assert read_sidecar(picture) == Note(prompt="from text")
    (tmp_path / "a.b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputRefused, match="not UTF-8"):
        read_sidecar(picture)
    (tmp_path / "a.b.txt").unlink()
    for body, reason in (
        ("[1]", "a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"seed": Infinity}', "Inf"),
    ):
        (tmp_path / "a.b.json").write_text(body)
        with pytest.raises(InputRefused, match=reason):
            read_sidecar(picture)
    monkeypatch.setattr(metadata, "MAX_SIDECAR_BYTES", 5)
    with pytest.raises(InputRefused, match="larger than 5"):
        read_sidecar(picture)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "x", "1e3", 2**63, [1]])
def test_seeds_are_whole_numbers(seed: object) -> None:
    with pytest.raises(InputRefused, match="seed"):
        parse_note({"seed": seed})


def test_tables(tmp_path: Path) -> None:
    assert read_table(tmp_path) == ({}, [])
    table = tmp_path / "metadata.csv"
    table.write_text('\ufefffile_name,prompt,seed\n./a.png,"one, two",0\nb.png\n', encoding="utf-8")
    found, refused = read_table(tmp_path)
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
