"""`tag`, `send` and `split`, and `--search`, as commands."""

from pathlib import Path

import pytest

from dataengine.records import Image
from storage.opening import create_workspace
from tests.pipelines.cli.test_commands import Console


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    workspace = create_workspace(tmp_path / "w")
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=f"i{at}", sha256=f"{at:064x}", height=4, width=4, prompt=f"a {word} hand")
            for at, word in enumerate(("red", "blue", "red"))
        )
        catalog.commit()
    workspace.close()
    return Console(tmp_path / "w", capsys)


def test_images_are_tagged_sent_and_moved_by_filter_or_by_id(console: Console) -> None:
    status, out, err = console("tag", "--images", "--search", "hand -blue", "--add", "warm", "odd")
    assert status == 0 and out.startswith("2 images: 4 tags added, 0 removed"), err
    assert console.json("tag", "i0", "--remove", "odd") == {"images": 1, "added": 0, "removed": 1}
    assert console.json("send", "--images", "tag=warm") == {"selected": 2, "sent": 2, "left_out": 0}
    assert console.json("send", "--search", "red")["left_out"] == 2
    assert console.json("split", "i1", "--to", "validation") == {"selected": 1, "moved": 1, "kept": 0}
    status, _, err = console("hard-categories", "--search", "red")
    assert status == 1 and "no champion detector" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tag", "--add", "x"), "name images by their ids, or by --images"),
        (("tag", "i0", "--images", "--add", "x"), "name images by their ids, or by --images"),
        (("tag", "i0", "--add", "x" * 10_000), "at most 64 characters"),
        (("tag", "gone", "--add", "x"), "no image matches"),
        (("tag", "i0"), "name a tag"),
        (("send", "i0", "--people", "eve"), "no account 'eve'"),
        (("hard-categories", "--search", "purple"), "no image matches search=purple"),
    ],
)
def test_what_makes_no_sense_is_one_line(console: Console, words: tuple[str, ...], said: str) -> None:
    status, _, err = console(*words)
    assert status == 1 and said in err and len(err.strip().splitlines()) == 1
