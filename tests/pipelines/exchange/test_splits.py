"""Out and in again: splits, sources and all that is said of an image come back, and a benchmark stays one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataengine.errors import InputRefused
from dataengine.images import measure
from dataengine.masks import pack_label_map
from dataengine.records import COLLECTED, Image, Label, SnapshotItem, Split, image_id
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Ingest
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers.hub import export_snapshot
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures
from tests.pipelines.exchange.labelled import HEIGHT, LEFT, WIDTH, boxed, picture
from tests.pipelines.exchange.test_roundtrips import workspaces

KEPT = ("split", "source", "prompt", "seed", "category", "licence", "generator_id", "group", "sha256")
AS = {"folder": "masks", "masks": "masks", "coco": "coco", "fiftyone": "coco", "label-studio": "label-studio"}
"""Export format → the import format that reads it."""

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12).map(str.strip)
word = st.none() | text.filter(bool)


@st.composite
def images(draw: st.DrawFn) -> list[Image]:
    """Pictures with anything a catalog may say of them, in groups of one split each."""
    found = []
    groups = draw(
        st.lists(text.filter(lambda name: name and not name.startswith("look:")), min_size=1, max_size=3)
    )
    splits = {group: draw(st.sampled_from(get_args(Split))) for group in [*groups, "look:00ff00ff00ff00ff"]}
    for number in range(draw(st.integers(1, 5))):
        group = draw(st.sampled_from(sorted(splits)))
        found.append(
            Image(
                id=str(number), sha256="", height=HEIGHT, width=WIDTH, group=group, split=splits[group],
                prompt=draw(text), seed=draw(st.none() | st.integers(0, 2**63 - 1)), category=draw(word),
                licence=draw(text), generator_id=draw(word),
                source=draw(st.sampled_from(COLLECTED)),
            )
        )  # fmt: skip
    return found


def fill(workspace: Workspace, given: Sequence[Image]) -> None:
    """Stores the pictures; every other one is marked, the rest are clean."""
    blob = workspace.blobs.put(pack_label_map(boxed(LEFT).astype(np.uint8)))
    with workspace.catalog() as catalog:
        for number, image in enumerate(given):
            data = pictures.encoded(pictures.scene(number, HEIGHT, WIDTH))
            sha, thumbnail = workspace.blobs.put_many([data, measure(data).thumbnail])
            key = image_id(sha, image.generator_id, image.prompt, image.seed)
            catalog.images.add_many([replace(image, id=key, sha256=sha, thumbnail=thumbnail)])
            drawn = blob if number % 2 else None
            catalog.labels.submit(
                Label(
                    image_id=key, author="ada", height=HEIGHT, width=WIDTH, label_map=drawn, clean=not drawn
                )
            )
        catalog.commit()


def told(workspace: Workspace, **filters: str) -> set[tuple[object, ...]]:
    with workspace.catalog(read_only=True) as catalog:
        return {tuple(getattr(one, name) for name in KEPT) for one in catalog.images.find(**filters)}


SOME = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("format", AS)
@SOME
@given(given=images())
def test_everything_said_of_an_image_comes_back(format: str, given: list[Image], _bare: Path) -> None:
    with workspaces(_bare) as (source, target, folder):
        fill(source, given)
        done = export_folder(source, folder / "out", format=format)
        # Whatever is asked for: what the dataset states counts.
        ingest = Ingest(licence="none", validation=0.5, benchmark=0.4)
        result = import_dataset(target, AS[format], ImportOptions(path=done.folder), ingest, workers=1)
        assert not result.refused and result.added == len(given)
        expected = {row if row[5] else (*row[:5], "none", *row[6:]) for row in told(source)}
        assert told(target) == expected


@SOME
@given(given=images())
def test_snapshots_through_hugging_face(given: list[Image], _bare: Path) -> None:
    with workspaces(_bare) as (source, target, folder):
        fill(source, given)
        with source.catalog(read_only=True) as catalog:
            kept = [one for one in catalog.images.find() if one.split != "benchmark"]
        if not kept:
            return
        snapshot = source.snapshots.publish(
            SnapshotItem(image_id=one.id, image_sha256=one.sha256, kind="true", target=None, split=one.split)
            for one in kept
        )
        export_snapshot(source, snapshot.id, folder / "hf")
        result = import_dataset(
            target, "hf", ImportOptions(path=folder / "hf"), Ingest(benchmark=0.5), workers=1
        )
        assert not result.refused
        assert told(target) == told(source, split="train") | told(source, split="validation")


def three(workspace: Workspace) -> None:
    splits: tuple[Split, ...] = ("train", "validation", "benchmark")
    fill(
        workspace,
        [
            Image(
                id="", sha256="", height=HEIGHT, width=WIDTH, split=split, group=split, prompt=split, seed=1
            )
            for split in splits
        ],
    )


@pytest.mark.parametrize("format", ["coco", "fiftyone", "label-studio", "masks", "folder"])
def test_an_export_read_as_a_folder_of_pictures(
    format: str, fresh: Workspace, another: Workspace, tmp_path: Path
) -> None:
    three(fresh)
    export_folder(fresh, tmp_path / "out", format=format)
    if format in ("masks", "folder"):
        with pytest.raises(InputRefused, match="--format masks"):
            import_folder(another, tmp_path / "out")
        import_folder(another, tmp_path / "out" / "images")
    else:
        import_folder(another, tmp_path / "out")
    assert {row[0] for row in told(another)} == {"train", "validation", "benchmark"}
    with another.catalog(read_only=True) as catalog:
        assert {one.prompt: one.split for one in catalog.images.find()} == {
            name: name for name in get_args(Split)
        }


def test_an_export_of_label_studio_that_states_no_splits(
    fresh: Workspace, another: Workspace, tmp_path: Path
) -> None:
    """As this software wrote it once; the table beside the images knows them."""
    three(fresh)
    folder = export_folder(fresh, tmp_path / "out", format="label-studio").folder
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        for name in ("split", "source", "group"):
            del task["data"][name]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    import_dataset(another, "label-studio", ImportOptions(path=folder), Ingest(), workers=1)
    assert told(another) == told(fresh)


def test_a_benchmark_picture_that_is_trained_on_here_is_told(
    fresh: Workspace, another: Workspace, tmp_path: Path
) -> None:
    three(fresh)
    folder = export_folder(fresh, tmp_path / "out", format="masks").folder
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in (folder / "images").glob("*.png"):
        (plain / path.name).write_bytes(path.read_bytes())
    import_folder(another, plain, validation=0.0)
    result = import_dataset(another, "masks", ImportOptions(path=folder), Ingest(), workers=1)
    assert result.added == 0 and len(result.refused) == 1 and "benchmark" in result.refused[0].reason


def test_a_benchmark_picture_of_a_group_that_is_trained_on_is_refused(
    fresh: Workspace, tmp_path: Path
) -> None:
    picture(tmp_path / "a" / "1.png", 1)
    table = "file_name,prompt,seed,split,group\n1.png,a hand,7,{split},{group}\n"
    (tmp_path / "a" / "metadata.csv").write_text(table.format(split="train", group="g"))
    import_folder(fresh, tmp_path / "a")
    picture(tmp_path / "b" / "1.png", 2)
    (tmp_path / "b" / "metadata.csv").write_text(table.format(split="benchmark", group="g"))
    result = import_folder(fresh, tmp_path / "b")
    assert result.added == 0 and "its group is of split train" in result.refused[0].reason
    assert {row[0] for row in told(fresh)} == {"train"}


def test_members_of_one_group_share_the_strictest_split(fresh: Workspace, tmp_path: Path) -> None:
    splits = ("train", "benchmark", "validation", "")
    rows = [f"{number}.png,{split},g" for number, split in enumerate(splits)]
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split,group", *rows[:3]]))
    assert import_folder(fresh, tmp_path, validation=0.0).added == 4
    with fresh.catalog(read_only=True) as catalog:
        found = {one.origin: one.split for one in catalog.images.find()}
    assert found == {"0.png": "benchmark", "1.png": "benchmark", "2.png": "benchmark", "3.png": "train"}


@pytest.mark.parametrize("split", ["test", "Train", "0", "val", " "])
def test_words_of_other_tools_are_not_ours(split: str, fresh: Workspace, tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    (tmp_path / "metadata.csv").write_text(
        f"file_name,prompt,split,source,group\n1.png,a hand,{split},https://a.example,look:zz\n"
    )
    import_folder(fresh, tmp_path, validation=0.0)
    with fresh.catalog(read_only=True) as catalog:
        [image] = catalog.images.find()
    assert (image.prompt, image.split, image.source) == ("a hand", "train", "generated")
    assert image.group != "look:zz"


def test_a_group_that_no_near_duplicate_can_have_harms_no_later_import(
    fresh: Workspace, tmp_path: Path
) -> None:
    for number, group in enumerate(("look:", "look:xyz", "look:00ff", "look:00000000000000ff", "other")):
        picture(tmp_path / f"{number}.png", number)
        (tmp_path / "metadata.csv").write_text(f"file_name,split,group\n{number}.png,train,{group}\n")
        import_folder(fresh, tmp_path)
    with fresh.catalog(read_only=True) as catalog:
        groups = {one.group for one in catalog.images.find()}
    assert {"look:00000000000000ff", "other"} < groups and not groups & {"look:", "look:xyz", "look:00ff"}


def test_formats_say_what_they_cannot_hold(fresh: Workspace, tmp_path: Path) -> None:
    three(fresh)
    assert export_folder(fresh, tmp_path / "p", format="predictions").losses
    assert export_folder(fresh, tmp_path / "f", format="fiftyone").losses
    assert export_folder(fresh, tmp_path / "c", format="coco", pictures=False).images == 3
    assert (tmp_path / "c" / "images" / "metadata.csv").is_file()
