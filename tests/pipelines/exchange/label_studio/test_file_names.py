"""Addresses as Label Studio writes them, and the files that they mean."""

import unicodedata
from pathlib import Path

import pytest

from pipelines.exchange.label_studio.file_names import Pictures, identity, stored_name

FILES = ("a.png", "my image (1).png", "größe.png", "50%20off.png", "x+y.png", "set/deep/b.png", "set/c.png",
         "hash#1.png", "12345678-own.png", "q.png", "Zoë & me.png")  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"-")
    (tmp_path / "secret.png").write_bytes(b"-")
    return folder


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("/data/upload/7/a.png", "a.png"),
        ("/data/upload/7/3f2a9c1d-a.png", "a.png"),
        ("/data/upload/7/b.png", "set/deep/b.png"),
        ("/data/upload/7/3f2a9c1d-b.png", "set/deep/b.png"),
        ("http://labels.example:8080/data/upload/7/3f2a9c1d-a.png", "a.png"),
        ("upload/7/3f2a9c1d-a.png", "a.png"),
        ("s3://bucket/a.png", "a.png"),
        ("gs://bucket/some/set/deep/b.png", "set/deep/b.png"),
        ("azure-blob://box/set%2Fc.png", "set/c.png"),
        ("https://host/x/a.png?X-Amz-Signature=0f&X-Amz-Date=1#top", "a.png"),
        ("/data/local-files/?d=set/deep/b.png", "set/deep/b.png"),
        ("/data/local-files/?d=set%5Cdeep%5Cb.png", "set/deep/b.png"),
        ("/data/local-files?d=set/c.png&t=7", "set/c.png"),
        ("/data/local-files/?d=home/ada/pictures/set/c.png", "set/c.png"),
        ("/data/local-files/?d=pictures/my%20image%20%281%29.png", "my image (1).png"),
        ("/data/local-files/?d=pictures/my+image+(1).png", "my image (1).png"),
        # As the server of version 1.23.2 stores them.
        ("/data/upload/1/0000f76c-my_image_1.png", "my image (1).png"),
        ("/data/upload/1/972a5930-gr%C3%B6%C3%9Fe.png", "größe.png"),
        ("/data/upload/1/a3389766-5020off.png", "50%20off.png"),
        ("/data/upload/1/9f331045-hash1.png", "hash#1.png"),
        ("/data/upload/1/1208d0fe-xy.png", "x+y.png"),
        ("/data/upload/1/1208d0fe-Zoë__me.png", "Zoë & me.png"),
        ("/data/upload/1/0123abcd-12345678-own.png", "12345678-own.png"),
        ("/data/upload/1/12345678-own.png", "12345678-own.png"),
        ("50%20off.png", "50%20off.png"),
        ("x+y.png", "x+y.png"),
        ("hash#1.png", "hash#1.png"),
        ("C:\\Users\\ada\\set\\c.png", "set/c.png"),
        ("../../label-studio/media/upload/4/ab12cd34-a.png", "a.png"),
        ("q.png?x=1", "q.png"),
    ],
)
def test_addresses(address: str, file: str, root: Path) -> None:
    assert Pictures(root).find(address) == file


@pytest.mark.parametrize(
    "address",
    [
        "", "/", ".", "..", "../secret.png", "set/../../secret.png", "/etc/passwd", "none.png",
        "set", "/data/upload/7/3F2A9C1D-none.png", "/data/upload/7/3f2a9c1d-", "3f2a9c1d-", "\0", "a" * 5000,
        "a" * 300, "data:image/png;base64,iVBORw0KGgo=", "\ud800.png", "a hand with six fingers / two thumbs",
    ],
)  # fmt: skip
def test_addresses_of_no_file(address: str, root: Path) -> None:
    assert Pictures(root).find(address) is None


def test_accents_in_either_spelling(root: Path) -> None:
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "/data/upload/1/972a5930-größe.png")
        assert Pictures(root).find(name) == "größe.png"


def test_an_upload_of_which_two_files_have_the_name(root: Path) -> None:
    (root / "xy.png").write_bytes(b"-")
    assert Pictures(root).find("/data/upload/1/1208d0fe-xy.png") is None
    assert Pictures(root).find("/data/upload/1/xy.png") == "xy.png"


def test_a_name_in_two_folders(root: Path) -> None:
    (root / "set" / "deep" / "c.png").write_bytes(b"-")
    for address in ("c.png", "s3://bucket/c.png", "/data/upload/1/1208d0fe-c.png"):
        assert Pictures(root).find(address) is None
    assert Pictures(root).find("s3://bucket/deep/c.png") is None
    assert Pictures(root).find("s3://bucket/set/deep/c.png") == "set/deep/c.png"


def test_names_that_label_studio_stores() -> None:
    for name, stored in (("my image (1).png", "my_image_1.png"), ("a&b.png", "ab.png"), (" ä.png", "ä.png")):
        assert stored_name(name) == stored


def test_one_picture_by_several_addresses() -> None:
    assert identity("s3://b/x/a%20b.png") == identity("s3://b/x/a b.png?token=1")
    assert identity("/data/local-files/?d=x/a.png") == identity("/data/local-files/?d=x%2Fa.png")
    assert identity("s3://b/x/a.png") != identity("s3://b/y/a.png")
    assert identity("") == ""
