"""Datasets as `datasets` and its users lay them out, in folders; `test_hub_datasets.py` has the hub."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from dataengine.errors import InputRefused
from pipelines.exchange.formats import import_dataset
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportResult, Ingest
from pipelines.exchange.readers.tar_bounds import check_tar
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures
from tests.pipelines.exchange.labelled import HEIGHT, LEFT, WIDTH, boxed, marked, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder beside the workspace's."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def body(number: int, kind: str = "PNG") -> bytes:
    return pictures.encoded(pictures.scene(number, HEIGHT, WIDTH), kind)


def mask_body() -> bytes:
    return pictures.encoded(boxed(LEFT).astype("uint8") * 255)


def take(workspace: Workspace, path: Path, validation: float = 0.0, **wanted: Any) -> ImportResult:
    return import_dataset(workspace, "hf", ImportOptions(path=path, **wanted), Ingest(validation=validation))


def found(workspace: Workspace) -> dict[str, tuple[str, str | None, str, int]]:
    """Split, category, prompt, and number of marked pixels (-1 without a label) by the images' names."""
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        labels = {label.image_id: label for label in catalog.labels.of_images([one.id for one in images])}
    return {
        one.origin.partition(":")[2]: (
            one.split,
            one.category,
            one.prompt,
            int(marked(workspace, labels[one.id]).sum()) if one.id in labels else -1,
        )
        for one in images
    }


def rows(first: int, count: int, classes: tuple[str, ...] = ("hand", "foot")) -> datasets.Dataset:
    """Images, masks of every other one, prompts and numbers of classes, as `datasets` makes them."""
    numbers = range(first, first + count)
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": body(n), "path": None} for n in numbers],
            "mask": [{"bytes": mask_body(), "path": None} if n % 2 else None for n in numbers],
            "text": [f"number {n}" for n in numbers],
            "label": [n % len(classes) for n in numbers],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "mask": datasets.Image(),
                "text": datasets.Value("string"),
                "label": datasets.ClassLabel(names=list(classes)),
            }
        ),
    )


# ---- tables ------------------------------------------------------------------------------------------------


def test_features_and_splits_of_parquet(fresh: Workspace, root: Path) -> None:
    rows(0, 2).to_parquet(root / "data" / "train-00000-of-00001.parquet")
    rows(2, 1).to_parquet(root / "data" / "validation-00000-of-00001.parquet")
    rows(3, 1).to_parquet(root / "data" / "test-00000-of-00001.parquet")
    result = take(fresh, root)
    assert (result.added, result.labels, result.refused) == (4, 2, ())
    assert found(fresh) == {
        "data/train-00000-of-00001.parquet#0": ("train", "hand", "number 0", -1),
        "data/train-00000-of-00001.parquet#1": ("train", "foot", "number 1", 400),
        "data/validation-00000-of-00001.parquet#0": ("validation", "hand", "number 2", -1),
        "data/test-00000-of-00001.parquet#0": ("benchmark", "foot", "number 3", 400),
    }
    assert any("test as benchmark" in loss for loss in result.losses)
    again = take(fresh, root)
    assert (again.added, again.duplicates, again.labels) == (0, 4, 0)


def test_a_split_that_is_alone_says_nothing(fresh: Workspace, root: Path) -> None:
    """Everything is "train" to `datasets` that states no split."""
    rows(0, 3).to_parquet(root / "rows.parquet")
    take(fresh, root, validation=0.999_999)
    assert {split for split, *_ in found(fresh).values()} == {"validation"}


def configured(root: Path) -> Path:
    rows(0, 1).to_parquet(root / "a" / "one.parquet")
    rows(1, 2).to_parquet(root / "b" / "two.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/*.parquet\n"
        for name, split in (("a", "train"), ("b", "test"))
    )
    (root / "README.md").write_text(f"---\nlicense: cc0-1.0\nconfigs:\n{configs}---\n# A card\n")
    return root


def test_configurations(fresh: Workspace, root: Path) -> None:
    root = configured(root / "set")
    with pytest.raises(InputRefused, match="has the configurations a, b; choose one with --config"):
        take(fresh, root)
    with pytest.raises(InputRefused, match="'c' not found"):
        take(fresh, root, config="c")
    result = take(fresh, root, config="b")
    assert (result.added, result.refused) == (2, ())
    assert found(fresh)["b/two.parquet#0"] == ("benchmark", "foot", "number 1", 400)
    assert any("one.parquet" in loss for loss in result.losses)


def test_classes_that_only_the_card_names(fresh: Workspace, root: Path) -> None:
    import pyarrow.parquet as parquet

    rows(0, 2).to_parquet(root / "rows.parquet")
    table = parquet.read_table(root / "rows.parquet").replace_schema_metadata(None)
    parquet.write_table(table, root / "rows.parquet")
    (root / "README.md").write_text(
        "---\ndataset_info:\n  features:\n"
        "  - name: image\n    dtype: image\n  - name: mask\n    dtype: image\n"
        "  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': toe\n          '1': finger\n---\n"
    )
    assert take(fresh, root).refused == ()
    assert {name: said[1] for name, said in found(fresh).items()} == {
        "rows.parquet#0": "toe",
        "rows.parquet#1": "finger",
    }


@pytest.mark.parametrize("said", ["no JSON", '{"info": {"features": {"image": {"_type": "Nothing"}}}}'])
def test_a_file_whose_own_features_are_none(said: str, fresh: Workspace, root: Path) -> None:
    import pyarrow.parquet as parquet

    rows(0, 2).to_parquet(root / "rows.parquet")
    table = parquet.read_table(root / "rows.parquet").replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, root / "rows.parquet")
    with pytest.raises(InputRefused, match=r"rows\.parquet cannot be read"):
        take(fresh, root)


def test_what_save_to_disk_leaves(fresh: Workspace, root: Path) -> None:
    both = datasets.DatasetDict({"train": rows(0, 2), "test": rows(2, 1)})
    both.save_to_disk(root / "set")
    assert take(fresh, root / "set").refused == ()
    assert {name: said[:2] for name, said in found(fresh).items()} == {
        "train/data-00000-of-00001.arrow#0": ("train", "hand"),
        "train/data-00000-of-00001.arrow#1": ("train", "foot"),
        "test/data-00000-of-00001.arrow#0": ("benchmark", "hand"),
    }


def test_a_table_that_names_images_beside_it(fresh: Workspace, root: Path) -> None:
    for number in range(3):
        picture(root / "photos" / f"{number}.png", number)
    names = ["photos/0.png", "photos/1.png", "../outside.png"]
    datasets.Dataset.from_dict({"image": names, "prompt": ["a", "b", "c"]}).to_parquet(root / "t.parquet")
    result = take(fresh, root)
    assert result.added == 2 and ["leads out" in one.reason for one in result.refused] == [True]
    assert {said[2] for said in found(fresh).values()} == {"a", "b"}


@pytest.mark.parametrize(
    "name", ["[1-3].parquet", "a b.parquet", "*.parquet", "{x}.parquet", "h\u00e4nde.parquet"]
)
def test_names_are_no_patterns(name: str, fresh: Workspace, root: Path) -> None:
    rows(0, 1).to_parquet(root / "2.parquet")
    rows(1, 1).to_parquet(root / "plain.parquet")
    (root / "2.parquet").rename(root / "x")
    (root / "x").rename(root / name)
    assert (take(fresh, root / name).added, take(fresh, root).added) == (1, 1)


# ---- WebDataset --------------------------------------------------------------------------------------------


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def shard(first: int, image: str = "jpg") -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in (first, first + 1):
        kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(image, image.upper())
        members[f"{number:05d}.{image}"] = body(number, kind)
        members[f"{number:05d}.txt"] = f"number {number}".encode()
        members[f"{number:05d}.json"] = json.dumps({"seed": number, "category": "hand", "url": "x"}).encode()
        members[f"{number:05d}.mask.png"] = mask_body()
    return members


@pytest.mark.parametrize("image", ["jpg", "jpeg", "png", "webp"])
def test_webdataset(image: str, fresh: Workspace, root: Path) -> None:
    for first in (0, 2):
        tar(root / "set" / f"{first:04d}.tar", shard(first, image))
    result = take(fresh, root / "set")
    assert (result.added, result.labels, result.refused) == (4, 4, ())
    assert found(fresh)["0002.tar#1"] == ("train", "hand", "number 3", 400)
    with fresh.catalog(read_only=True) as catalog:
        assert sorted(one.seed for one in catalog.images.find() if one.seed is not None) == [0, 1, 2, 3]
    assert take(fresh, root / "set" / "0000.tar").duplicates == 2


def test_splits_of_webdataset(fresh: Workspace, root: Path) -> None:
    tar(root / "train-0000.tar", shard(0))
    tar(root / "test-0000.tar", shard(2))
    take(fresh, root)
    assert {name: said[0] for name, said in found(fresh).items()} == {
        "train-0000.tar#0": "train", "train-0000.tar#1": "train",
        "test-0000.tar#0": "benchmark", "test-0000.tar#1": "benchmark",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("1.pth", b"\x80\x04N.", "none of"),
        ("1.npy", b"\x93NUMPY", "none of"),
        ("1.pickle", b"\x80\x04N.", "none of"),
        ("1.mp", b"\x81", "none of"),
        ("1.jpg.gz", b"\x1f\x8b", "none of"),
        ("1.mp4", b"", "none of"),
        ("1.json", b" " * (2 << 20), "leave it out"),
    ],
)
def test_members_that_may_do_anything(
    name: str, data: bytes, says: str, fresh: Workspace, root: Path
) -> None:
    tar(root / "bad.tar", {"0.jpg": body(0, "JPEG"), name: data})
    tar(root / "good.tar", shard(5))
    result = take(fresh, root)
    [refusal] = result.refused
    assert result.added == 2 and says in refusal.reason and "bad.tar" in refusal.name


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_refused(mode: str, root: Path) -> None:
    with pytest.raises(InputRefused, match="no uncompressed tar"):
        check_tar(tar(root / "a.tar", shard(0), mode))


def test_links_and_sparse_members_are_refused(root: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(root / "a.tar", "w") as archive:
            about = tarfile.TarInfo("a.jpg")
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
        with pytest.raises(InputRefused, match="special file"):
            check_tar(root / "a.tar")
    with tarfile.open(root / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        about = tarfile.TarInfo("a.jpg")
        about.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}
        about.size = 1
        archive.addfile(about, io.BytesIO(b"x"))
    with pytest.raises(InputRefused):
        check_tar(root / "a.tar")


# ---- folders of images -------------------------------------------------------------------------------------


def test_folders_of_classes(fresh: Workspace, root: Path) -> None:
    for number, name in enumerate(
        ("train/hand/a.png", "train/foot/b.png", "test/hand/c.png", "test/foot/d.png")
    ):
        picture(root / name, number)
    assert take(fresh, root).refused == ()
    assert {name: said[:2] for name, said in found(fresh).items()} == {
        "train/hand/a.png": ("train", "hand"),
        "train/foot/b.png": ("train", "foot"),
        "test/hand/c.png": ("benchmark", "hand"),
        "test/foot/d.png": ("benchmark", "foot"),
    }


def with_metadata(root: Path) -> Path:
    """Images in folders of splits, each with its own table, which names masks as well."""
    for number, split in enumerate(("train", "test")):
        picture(root / split / "a.png", 2 * number)
        picture(root / split / "b.png", 2 * number + 1)
        (root / split / "masks").mkdir()
        (root / split / "masks" / "a.png").write_bytes(mask_body())
        lines = [
            {"file_name": "a.png", "text": f"{split} a", "mask_file_name": "masks/a.png"},
            {"file_name": "b.png", "text": f"{split} b", "mask_file_name": None},
        ]
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def test_tables_beside_images(fresh: Workspace, root: Path) -> None:
    result = take(fresh, with_metadata(root / "set"))
    assert (result.added, result.labels) == (4, 2)
    assert found(fresh) == {
        "train/a.png": ("train", None, "train a", 400),
        "train/b.png": ("train", None, "train b", -1),
        "test/a.png": ("benchmark", None, "test a", 400),
        "test/b.png": ("benchmark", None, "test b", -1),
    }
    assert not [one for one in result.refused if "masks" not in one.name]


def test_images_that_the_table_does_not_name_are_listed(fresh: Workspace, root: Path) -> None:
    for number in range(3):
        picture(root / f"{number}.png", number)
    (root / "metadata.csv").write_text("file_name,text\n0.png,a\n2.png,b\n")
    result = take(fresh, root)
    assert result.added == 2 and [one.name for one in result.refused] == ["1.png"]


@pytest.mark.parametrize("given", ["set", "./set", "link"])
def test_a_folder_by_a_relative_name(
    given: str, fresh: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        picture(root / "set" / "photos" / f"{number}.png", number)
    (root / "set" / "metadata.csv").write_text("file_name,text\nphotos/0.png,a\nphotos/1.png,b\n")
    (root / "link").symlink_to("set")
    monkeypatch.chdir(root)
    assert take(fresh, Path(given)).refused == ()
    assert {said[2] for said in found(fresh).values()} == {"a", "b"}


def test_a_table_that_is_of_no_split_is_told(fresh: Workspace, root: Path) -> None:
    picture(root / "train" / "0.png")
    (root / "metadata.csv").write_text("file_name,text\ntrain/0.png,a\n")
    assert any("not read" in loss and "metadata.csv" in loss for loss in take(fresh, root).losses)


def zipped(path: Path, folder: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_zipped_images(fresh: Workspace, root: Path) -> None:
    for number, split in enumerate(("train", "test")):
        inner = root / split
        (inner / "0.jpg").parent.mkdir()
        (inner / "0.jpg").write_bytes(body(2 * number, "JPEG"))
        (inner / "1.jpg").write_bytes(body(2 * number + 1, "JPEG"))
        (inner / "m.png").write_bytes(mask_body())
        (inner / "metadata.csv").write_text("file_name,text,mask_file_name\n0.jpg,zero,m.png\n1.jpg,one,\n")
        zipped(root / "set" / "data" / f"{split}.zip", inner)
    result = take(fresh, root / "set")
    assert (result.added, result.labels) == (4, 2)
    assert found(fresh) == {
        "data/train.zip/0.jpg": ("train", None, "zero", 400),
        "data/train.zip/1.jpg": ("train", None, "one", -1),
        "data/test.zip/0.jpg": ("benchmark", None, "zero", 400),
        "data/test.zip/1.jpg": ("benchmark", None, "one", -1),
    }


def test_images_beside_zipped_ones(fresh: Workspace, root: Path) -> None:
    for number, name in enumerate(("set/train/a.png", "in/b.png", "inner/c.png")):
        picture(root / name, number)
    zipped(root / "set" / "train" / "more.zip", root / "in")
    zipped(root / "set" / "test" / "all.zip", root / "inner")
    assert take(fresh, root / "set").refused == ()
    assert {name: said[0] for name, said in found(fresh).items()} == {
        "train/a.png": "train", "train/more.zip/b.png": "train", "test/all.zip/c.png": "benchmark",
    }  # fmt: skip


def test_a_zip_of_a_folder_of_images(fresh: Workspace, root: Path) -> None:
    assert take(fresh, zipped(root / "set.zip", with_metadata(root / "set"))).labels == 2


def test_an_archive_beyond_its_bounds_costs_itself(
    fresh: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.exchange.safe_files.ARCHIVE_ALWAYS", 1 << 20)
    picture(root / "in" / "0.png")
    zipped(root / "set" / "a.zip", root / "in")
    with zipfile.ZipFile(root / "set" / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(64 << 20))
    result = take(fresh, root / "set")
    assert result.added == 1 and [one.name for one in result.refused] == ["b.zip"]
    assert "would unpack to" in result.refused[0].reason


def test_masks_beside_images_are_no_images(fresh: Workspace, root: Path) -> None:
    picture(root / "images" / "a.png")
    picture(root / "masks" / "a.png", 1)
    with pytest.raises(InputRefused, match="--format masks"):
        take(fresh, root)


def test_links_in_a_folder_of_images_are_refused(fresh: Workspace, root: Path) -> None:
    picture(root / "set" / "a.png", 1)
    (root / "set" / "b.png").symlink_to(picture(root / "secret.png", 2))
    result = take(fresh, root / "set")
    assert result.added == 1 and "link" in "".join(one.reason for one in result.refused)


# ---- what is refused as a whole ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["../secret.parquet", "/etc/*.parquet", "https://example.org/a.parquet", "zip://a.parquet::x.zip",
     "hf://datasets/ada/other/a.parquet", "file:///etc/a.parquet"],
)  # fmt: skip
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_that_names_files_elsewhere(card: str, pattern: str, fresh: Workspace, root: Path) -> None:
    rows(0, 1).to_parquet(root / "secret.parquet")
    rows(1, 1).to_parquet(root / "set" / "a.parquet")
    yaml = f'configs:\n- config_name: default\n  data_files: "{pattern}"\n'
    (root / "set" / card).write_text(f"---\n{yaml}---\n" if card == "README.md" else yaml)
    with pytest.raises(InputRefused, match="leads out of the dataset"):
        take(fresh, root / "set")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("a: &a [1]\nconfigs: *a", "aliases"),
        ("configs: [", "not valid YAML"),
        ("configs: " + "[" * 5000, "not valid YAML"),
        ("x: " + "y" * (2 << 20), "shorten it"),
        ('x: "a---b"\nconfigs:\n- data_files: ../b.parquet', "leads out"),
    ],
)
def test_cards_that_are_none(header: str, says: str, fresh: Workspace, root: Path) -> None:
    rows(0, 1).to_parquet(root / "a.parquet")
    (root / "README.md").write_text(f"---\n{header}\n---\n")
    with pytest.raises(InputRefused, match=says):
        take(fresh, root)


def test_code_beside_a_dataset_is_not_run(fresh: Workspace, root: Path) -> None:
    (root / "set").mkdir()
    marker = root / "ran"
    rows(0, 1).to_parquet(root / "set" / "a.parquet")
    for name in ("setup.py", "__init__.py", "set.py"):
        (root / "set" / name).write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(InputRefused, match="scripts are no longer supported"):
        take(fresh, root / "set")
    (root / "set" / "set.py").unlink()
    assert take(fresh, root / "set").added == 1 and not marker.exists()


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.txt", "clip.mp4", "a.h5", "rows.pkl"])
def test_other_kinds_are_refused_by_name(name: str, fresh: Workspace, root: Path) -> None:
    (root / name).write_text('{"a": 1}')
    with pytest.raises(InputRefused, match=r"Parquet|cannot be read"):
        take(fresh, root)


@pytest.mark.parametrize("path", ["hf://", "hf://a/b/c", "hf:///", "hf://ada/../x"])
def test_addresses_that_are_no_dataset(path: str, fresh: Workspace) -> None:
    with pytest.raises(InputRefused, match="hf://OWNER/NAME"):
        take(fresh, Path(path))
