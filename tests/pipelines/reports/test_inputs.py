"""Which files a repair is given, and what its results are called."""

from pathlib import Path

import pytest

from dataengine.errors import ConfigRefused
from pipelines.reports.inputs import find_inputs, name_results


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")


def test_results_are_called_as_their_inputs() -> None:
    named = [("a.png", Path("/x/a.png")), ("deep/er/b.c.jpg", Path("/x/deep/er/b.c.jpg"))]
    assert name_results(named) == {Path("/x/a.png"): "a", Path("/x/deep/er/b.c.jpg"): "deep/er/b.c"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.png", "a.jpg"),
        ("a.png", "A.PNG"),
        ("caf\u00e9.png", "cafe\u0301.webp"),
        ("stra\u00dfe.png", "STRASSE.gif"),
        ("sub/x.png", "SUB/x.png"),
    ],
)
def test_names_that_a_file_system_may_take_for_one_are_kept_apart(first: str, second: str) -> None:
    paths = [Path("/one") / first, Path("/two") / second]
    stems = name_results([(first, paths[0]), (second, paths[1])])
    assert len({stem.casefold() for stem in stems.values()}) == 2
    assert stems == name_results([(second, paths[1]), (first, paths[0])]), "whatever the order"


def test_files_and_folders_are_read_each_image_once(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    touch(photos / "a.png", photos / "sub/b.jpg", photos / ".hidden.png", tmp_path / "c.png")
    inputs, refused = find_inputs([photos, tmp_path / "c.png", photos / "a.png", tmp_path / "gone"], out)
    assert [(each.name, each.stem) for each in inputs] == [
        (str(photos / "a.png"), "a"),
        (str(photos / "sub/b.jpg"), "sub/b"),
        (str(tmp_path / "c.png"), "c"),
    ]
    assert [each.name for each in refused] == [str(tmp_path / "gone")]


def test_links_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "secret.png", tmp_path / "photos/a.png")
    (tmp_path / "photos/link.png").symlink_to(tmp_path / "secret.png")
    inputs, refused = find_inputs([tmp_path / "photos"], tmp_path / "out")
    assert [each.stem for each in inputs] == ["a"]
    assert "links are not followed" in refused[0].reason


def test_results_in_a_folder_of_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "repaired/a.png", tmp_path / "repaired/gallery.html")
    inputs, refused = find_inputs([tmp_path], tmp_path / "repaired")
    assert [each.stem for each in inputs] == ["a"] and not refused


def test_an_output_folder_that_holds_the_inputs_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "photos/a.png")
    (tmp_path / "alias").symlink_to(tmp_path / "photos")
    for given in (tmp_path / "photos", tmp_path / "photos/a.png", tmp_path / "alias"):
        with pytest.raises(ConfigRefused, match="name another folder with --out"):
            find_inputs([given], tmp_path / "photos")
