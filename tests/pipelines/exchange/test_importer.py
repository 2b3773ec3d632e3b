"""Every importer on its published layout: counts, labels, dry runs, repeats, and what is refused by name."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataengine.bounds import ARCHIVE_RATIO
from dataengine.errors import Cancelled, InputRefused
from dataengine.masks import unpack_label_map
from dataengine.records import Image, Label
from pipelines.exchange.formats import FORMATS, import_dataset, write_problems
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import ImportedAnnotation, ImportResult, Ingest, pack
from pipelines.exchange.safe_files import open_safely
from storage.workspace import Workspace
from tests.pipelines.exchange import layouts, pictures


def take(workspace: Workspace, format: str, path: Path, trial: bool = False, **wanted) -> ImportResult:  # type: ignore[no-untyped-def]
    ingest = Ingest(source="imported", licence="CC-BY-4.0", validation=0.0)
    return import_dataset(workspace, format, ImportOptions(path=path, **wanted), ingest, trial=trial)


def kept(workspace: Workspace) -> dict[str, tuple[Image, list[Label]]]:
    """Images by the name they were imported under, with their labels."""
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        labels = catalog.labels.of_images([image.id for image in images])
    return {i.origin.partition(":")[2]: (i, [one for one in labels if one.image_id == i.id]) for i in images}


def drawn(workspace: Workspace, label: Label) -> np.ndarray:
    assert label.label_map is not None
    return unpack_label_map(workspace.blobs.get(label.label_map), label.height, label.width)


def test_coco(fresh: Workspace, tmp_path: Path) -> None:
    path = layouts.coco(tmp_path / "d")
    trial = take(fresh, "coco", path, trial=True, mapping={"odd hand": "watermark"})
    assert (trial.added, trial.labels) == (5, 3) and not kept(fresh)
    result = take(fresh, "coco", path.parent, mapping={"odd hand": "watermark"}, clean=True)
    assert (result.added, result.labels, result.refused) == (5, 5, ())
    found = kept(fresh)
    assert np.array_equal(drawn(fresh, found["0.png"][1][0]), np.where(layouts.ring() == 1, 1, 0))
    polygon = drawn(fresh, found["1.png"][1][0])
    assert set(np.unique(polygon)) == {0, 3} and 380 <= (polygon > 0).sum() <= 440
    third = drawn(fresh, found["2.png"][1][0])
    assert (third[:5, 0] == 1).all() and (third[80:, 100:] == 3).all() and (third > 0).sum() == 5 + 16 * 28
    assert found["3.png"][1][0].clean
    image, labels = found["0.png"]
    assert (image.source, image.licence, labels[0].author) == ("imported", "CC-BY-4.0", "import:coco")
    assert labels[0].source == "import"
    again = take(fresh, "coco", path.parent, mapping={"odd hand": "watermark"}, clean=True)
    assert (again.added, again.duplicates, again.labels) == (0, 5, 0)


def test_coco_refuses_by_row(fresh: Workspace, tmp_path: Path) -> None:
    path = layouts.coco(tmp_path / "d")
    said = json.loads(path.read_text())
    said["images"] += [
        {"id": 0, "file_name": "4.png"},
        {"id": 30, "file_name": "../../etc/passwd"},
        {"id": 31, "file_name": "absent.png"},
        {"id": 32},
        "nonsense",
    ]
    said["annotations"] += [
        {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 1, 5, 5]},
        {"id": 50, "image_id": 99, "category_id": 7, "bbox": [1, 1, 5, 5]},
        {"id": 51, "image_id": 3, "category_id": 7, "segmentation": {"size": [5, 5], "counts": [25]}},
        {"id": 52, "image_id": 4, "category_id": 7, "segmentation": [[1, 2, 3]]},
        {"id": 53, "image_id": 4, "category_id": 8, "bbox": [1, 1, 5, 5]},
        None,
    ]
    path.write_text(json.dumps(said))
    result = take(fresh, "coco", path)
    reasons = "\n".join(f"{name}: {reason}" for name, reason in result.refused)
    for words in (
        "image id 0 comes twice",
        "leads out of its folder",
        "no image 'absent.png'",
        "names no file_name",
        "'odd hand' is none of",
        "refers to image 99",
        r"(5, 5) (height, width), its image is (96, 128)",
        "polygons",
        "its category is not in the file",
        "needs the id of its image",
    ):
        assert words in reasons, words
    assert result.added == 5 and result.labels == 0
    table = write_problems(fresh, result)
    assert table is not None
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result.refused) + len(result.alike)


def test_masks_and_pal4vst(fresh: Workspace, tmp_path: Path) -> None:
    layouts.pal4vst(tmp_path / "pal")
    result = take(fresh, "pal4vst", tmp_path / "pal", one_class="watermark")
    assert (result.added, result.labels) == (2, 2)
    assert [one.name for one in result.refused] == ["real/images"]
    for image, labels in kept(fresh).values():
        expected = np.where(layouts.ring() == 1, 3, 0)
        assert np.array_equal(drawn(fresh, labels[0]), expected), image.origin
    masks = tmp_path / "pal" / "inpainting"
    (masks / "labels" / "x.png").write_bytes(pictures.encoded(layouts.ring()))
    (masks / "labels" / "lost.png").write_bytes(pictures.encoded(layouts.ring()))
    picture = layouts.picture(masks / "images", "z.jpg", 8)
    (masks / "labels" / "z_mask.png").write_bytes(pictures.encoded(layouts.ring()[:50]))
    result = take(fresh, "masks", masks)
    assert (result.added, result.duplicates, result.labels) == (1, 1, 1)
    assert sorted(one.name for one in result.refused) == ["lost.png", picture.name]
    assert "its image is" in "".join(one.reason for one in result.refused)


def test_richhf(fresh: Workspace, tmp_path: Path) -> None:
    pick = layouts.richhf(tmp_path)
    result = take(fresh, "richhf", tmp_path, images=pick)
    assert (result.added, result.labels) == (2, 2)
    assert [one.name for one in result.refused] == ["train.tfrecord#2"] and "gone.png" in result.refused[
        0
    ].reason
    labels = kept(fresh)["train.tfrecord#0"][1]
    note = json.loads(labels[0].note)
    assert note["artifact_score"] == 0.25 and len(note["points"]) == 2
    assert [100.0, 19.0] in [[round(x), round(y)] for x, y in note["points"]]
    mask = drawn(fresh, labels[0])
    assert mask[48, 32] == 1 and mask[19, 100] == 1 and mask[90, 5] == 0
    assert kept(fresh)["train.tfrecord#1"][1][0].clean
    with pytest.raises(InputRefused, match="cannot enter a benchmark"):
        import_dataset(fresh, "richhf", ImportOptions(path=tmp_path, images=pick), Ingest(benchmark=0.5))


def test_richhf_misalignment_becomes_a_class_when_asked(fresh: Workspace, tmp_path: Path) -> None:
    pick = layouts.richhf(tmp_path)
    unlike = {"misalignment_map": layouts.heat([(128, 256), (400, 400)])}
    rows: list[dict[str, bytes | float]] = [
        {"filename": b"train/a.png", "artifact_map": layouts.heat([(128, 256)]), **unlike},
        {"filename": b"train/b.png", "artifact_map": layouts.heat([]), **unlike},
    ]
    layouts.tfrecord(tmp_path / "train.tfrecord", rows)
    mapping = {"misalignment": "unreasonable content"}
    result = take(fresh, "richhf", tmp_path, images=pick, mapping=mapping)
    assert (result.added, result.labels) == (2, 2)
    both, unlike_only = (drawn(fresh, kept(fresh)[f"train.tfrecord#{n}"][1][0]) for n in (0, 1))
    height, width = both.shape
    at = [(256 * height // 512, 128 * width // 512), (400 * height // 512, 400 * width // 512)]
    value = 1 + list(ImportOptions(path=tmp_path).classes).index("unreasonable content")
    assert value != 1 and [both[place] for place in at] == [1, value]
    assert [unlike_only[place] for place in at] == [value, value] and set(np.unique(both)) == {0, 1, value}


def test_richhf_misalignment_needs_a_class_and_a_map(fresh: Workspace, tmp_path: Path) -> None:
    pick = layouts.richhf(tmp_path)
    with pytest.raises(InputRefused, match="class 'misalignment' is none of"):
        take(fresh, "richhf", tmp_path, images=pick, mapping={"misalignment": "nowhere"})
    result = take(fresh, "richhf", tmp_path, images=pick, mapping={"misalignment": "unreasonable content"})
    assert result.labels == 0 and "the record has no misalignment_map" in str(result.refused)


def test_richhf_labels_stay_out_of_a_benchmark(fresh: Workspace, tmp_path: Path) -> None:
    pick = layouts.richhf(tmp_path)
    import_dataset(fresh, "folder", ImportOptions(path=pick), Ingest(validation=0.0, benchmark=0.999_999))
    result = take(fresh, "richhf", tmp_path, images=pick)
    assert result.labels == 0 and sum("benchmark" in one.reason for one in result.refused) == 2


def test_damaged_and_lying_tfrecords(fresh: Workspace, tmp_path: Path) -> None:
    pick = layouts.richhf(tmp_path)
    good = (tmp_path / "train.tfrecord").read_bytes()
    from pipelines.exchange.readers.tfrecord import masked_crc32c

    giant = (2**62).to_bytes(8, "little")
    for body, words in (
        (good[:-300], "are left"),
        (good[:5], "truncated"),
        (b"\0" * 40, "checksum of its length"),
        (giant + masked_crc32c(giant).to_bytes(4, "little") + good, "declares 4611686018427387904 bytes"),
    ):
        (tmp_path / "train.tfrecord").write_bytes(body)
        result = take(fresh, "richhf", tmp_path, images=pick, trial=True)
        assert words in result.refused[-1].reason
    layouts.tfrecord(
        tmp_path / "train.tfrecord", [{"filename": b"train/a.png", "artifact_map": b"no picture"}]
    )
    with (tmp_path / "train.tfrecord").open("ab") as file:
        length = (6).to_bytes(8, "little")
        file.write(
            length + masked_crc32c(length).to_bytes(4, "little") + b"\x0a\xff\xff\xff\xff\x0f" + bytes(4)
        )
    result = take(fresh, "richhf", tmp_path, images=pick)
    assert result.labels == 0 and result.added == 1
    assert "longer than the record" in "".join(r.reason for r in result.refused)
    assert "artifact_map is not a PNG" in "".join(r.reason for r in result.refused)


def test_hadm(fresh: Workspace, tmp_path: Path) -> None:
    layouts.hadm(tmp_path)
    (tmp_path / "annotations" / "val_sdxl" / "bad.json").write_bytes(b'{"image": "\xff"}')
    (tmp_path / "annotations" / "val_sdxl" / "deep.json").write_text("[" * 100_000)
    result = take(fresh, "hadm", tmp_path)
    assert (result.added, result.labels, len(result.refused)) == (2, 2, 2)
    found = kept(fresh)
    image, labels = found["val_sdxl/s_1.json"]
    mask = drawn(fresh, labels[0])
    assert image.prompt == "a man waving"
    assert (mask[20:50, 10:30] == 1).all() and (mask[0:90, 60:100] == 2).all()
    assert (mask > 0).sum() == 30 * 20 + 90 * 40
    assert json.loads(labels[0].note)["boxes"][1]["what"] == "hand"
    assert found["val_sdxl/s_2.json"][1][0].clean


def test_stopped_and_repeated(fresh: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = layouts.coco(tmp_path / "d")
    monkeypatch.setattr("pipelines.exchange.importer.BATCH_ROWS", 2)

    def cancel(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == 2:
            raise Cancelled("stop")

    wanted = ImportOptions(path=path, mapping={"odd hand": "watermark"})
    with pytest.raises(Cancelled):
        import_dataset(fresh, "coco", wanted, Ingest(), report=cancel)
    assert len(kept(fresh)) == 2
    result = import_dataset(fresh, "coco", wanted, Ingest())
    assert (result.added, result.duplicates, result.labels) == (3, 2, 3)


def test_near_duplicates_are_told(fresh: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    layouts.picture(folder, "a.png", 1)
    layouts.picture(folder, "b.jpg", 1)
    layouts.picture(folder, "c.png", 2)
    trial = import_dataset(fresh, "folder", ImportOptions(path=folder), Ingest(), trial=True)
    result = import_dataset(fresh, "folder", ImportOptions(path=folder), Ingest())
    assert [one.name for one in result.alike] == ["b.jpg"] == [one.name for one in trial.alike]


def zipped(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(info, data)
    return path


def test_an_archive(fresh: Workspace, tmp_path: Path) -> None:
    layouts.coco(tmp_path / "d")
    members = {f"set/{p.relative_to(tmp_path / 'd')}": p.read_bytes() for p in (tmp_path / "d").rglob("*.*")}
    path = zipped(tmp_path / "set.zip", members)
    assert take(fresh, "coco", path, mapping={"odd hand": "watermark"}).labels == 3


def test_masks_in_an_archive_from_windows(fresh: Workspace, tmp_path: Path) -> None:
    layouts.picture(tmp_path, "a.png", 1)
    members = {
        "set\\": b"",
        "set\\images\\a.png": (tmp_path / "a.png").read_bytes(),
        "set\\masks\\a.png": pictures.encoded(np.uint8(layouts.ring() == 1)),
    }
    path = zipped(tmp_path / "set.zip", members)
    with pytest.raises(InputRefused, match="--format masks"):
        take(fresh, "folder", path)
    assert take(fresh, "masks", path).labels == 1
    [(_, labels)] = kept(fresh).values()
    assert np.array_equal(drawn(fresh, labels[0]), layouts.ring() == 1)


@pytest.mark.parametrize(
    ("members", "links", "says"),
    [
        ({"../../escaped.txt": b"x"}, (), "leads out"),
        ({"/tmp/escaped.txt": b"x"}, (), "leads out"),
        ({"a/link": b"/etc/passwd"}, ("a/link",), "contains a link"),
        ({"a.png": b"1", "A.png/../a.png": b"2"}, (), "leads out"),
        ({"bomb.json": bytes(64 << 20)}, (), "unpack to"),
    ],
)
def test_hostile_archives(
    members: dict[str, bytes],
    links: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.exchange.safe_files.ARCHIVE_ALWAYS", 1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    (tmp_path / "unpacked").mkdir()
    path = zipped(tmp_path / "set.zip", members, links)
    with pytest.raises(InputRefused, match=says), open_safely(path):
        pass
    assert not list((tmp_path / "unpacked").iterdir()) and not (tmp_path.parent / "escaped.txt").exists()


def test_an_archive_that_lies_about_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.exchange.safe_files.ARCHIVE_ALWAYS", 1 << 20)
    path = zipped(tmp_path / "set.zip", {"bomb.bin": bytes(ARCHIVE_RATIO * 100_000)})
    body = path.read_bytes().replace(
        (ARCHIVE_RATIO * 100_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    )
    path.write_bytes(body)
    with pytest.raises(InputRefused, match=r"far more|damaged|cannot be read"), open_safely(path):
        pass


def test_links_are_not_followed(fresh: Workspace, tmp_path: Path) -> None:
    secret = layouts.picture(tmp_path / "outside", "secret.png", 9)
    path = layouts.coco(tmp_path / "d")
    (path.parent / "images" / "0.png").unlink()
    (path.parent / "images" / "0.png").symlink_to(secret)
    (path.parent / "images" / "elsewhere").symlink_to(secret.parent)
    said = json.loads(path.read_text())
    said["images"].append({"id": 40, "file_name": "elsewhere/secret.png"})
    path.write_text(json.dumps(said))
    result = take(fresh, "coco", path)
    assert result.added == 4
    assert sorted(one.name for one in result.refused if "link" in one.reason) == [
        "0.png",
        "elsewhere/secret.png",
    ]


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "folder"])
def test_what_is_no_such_dataset(format: str, fresh: Workspace, tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("nothing")
    with pytest.raises(InputRefused):
        take(fresh, format, tmp_path)
    for name in ("tasks.json", "annotations.json", "labels.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(InputRefused):
        take(fresh, format, tmp_path)
    assert not kept(fresh)


def test_a_batch_holds_packed_maps_and_not_their_pixels() -> None:
    label_map = np.ones((8, 8), np.uint8)
    answer, packed = pack(ImportedAnnotation(author="ann", label_map=label_map), 8, 8, 3)
    assert answer.label_map is None and packed is not None and packed.areas == {1: 64}
