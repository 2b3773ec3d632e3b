"""Every kind of damage to a backup that we know, shared by the tests and `make bench-hold`.

A kind is a function from the members of a sound, signed backup to a damaged file. `sealed` ones carry fresh
digests, as a forger would write them, but no signature: they are restored without a key, so that the check
of the content itself has to refuse them; all others are restored with the key.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataengine.errors import ClinicError
from dataengine.records import Draft, GeneratorVersion, Image, Label, User
from storage.maintenance.backup import back_up
from storage.maintenance.restore import restore
from storage.opening import create_workspace

KEY = b"a key of the workspace, 32 bytes"
BIG = 5 * 1024 * 1024
HEADER, MANIFEST = "backup.json", "manifest.json"
USERS, IMAGES, LABELS, IDENTITY = (
    f"catalog/{name}.jsonl.gz" for name in ("users", "images", "labels", "workspace")
)


@dataclass(frozen=True)
class Member:
    """A member of the tar file."""

    name: str
    body: bytes
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    claimed: int | None = None
    """The size in its header, where that is not the body's."""


@dataclass
class Parts:
    """A backup taken apart."""

    whole: bytes
    members: list[Member]
    folder: Path
    """A scratch folder."""

    def of(self, name: str) -> Member:
        return next(one for one in self.members if one.name == name)

    def blobs(self) -> list[Member]:
        return [one for one in self.members if one.name.startswith("blobs/")]

    def at(self, name: str) -> int:
        """The offset of a member's body in the file."""
        with tarfile.open(fileobj=io.BytesIO(self.whole)) as archive:
            return archive.getmember(name).offset_data

    def manifest(self) -> dict[str, Any]:
        return dict(json.loads(self.of(MANIFEST).body))


@dataclass(frozen=True)
class Kind:
    """One kind of damage."""

    name: str
    harm: Callable[[Parts], bytes]
    key: bytes | None = field(default=KEY)


# ---- a sound backup ---------------------------------------------------------------------------------------


def sound_backup(folder: Path) -> Path:
    """A signed backup of a workspace with rows of many kinds, small and large blobs, and a generator."""
    workspace = create_workspace(folder / "workspace")
    pipeline = workspace.path / "models" / "flux"
    pipeline.mkdir(parents=True)
    (pipeline / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (pipeline / "weights.safetensors").write_bytes(bytes(range(256)) * 100)
    names = workspace.blobs.put_many([f"picture {number}".encode() for number in range(6)])
    workspace.blobs.put(os.urandom(BIG))
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=f"i{number}", sha256=name, height=4, width=6, seed=2**60, settings={"steps": number})
            for number, name in enumerate(names)
        )
        catalog.labels.submit(Label(image_id="i1", author="anna", height=4, width=6, clean=True))
        catalog.drafts.save(Draft(image_id="i2", author="anna", label_map=bytes(range(256))))
        catalog.generators.add(GeneratorVersion(id="g", name="flux", location=str(pipeline)))
        catalog.users.add(User(name="anna", roles=("annotator",)), "scrypt$hash")
        catalog.commit()
    made = back_up(workspace, folder / "sound.tar", key=KEY)
    workspace.close()
    return made.path


def take_apart(backup: Path, scratch: Path) -> Parts:
    """The members of a sound backup."""
    with tarfile.open(backup) as archive:
        members = [Member(one.name, body(archive, one)) for one in archive]
    return Parts(backup.read_bytes(), members, scratch)


def body(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def packed(members: list[Member]) -> bytes:
    """A tar file of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for one in members:
            entry = tarfile.TarInfo(one.name)
            entry.size, entry.type, entry.linkname = len(one.body), one.kind, one.link
            if one.claimed is None:
                archive.addfile(entry, io.BytesIO(one.body))
                continue
            entry.size = one.claimed
            file.write(entry.tobuf(tarfile.PAX_FORMAT))
            file.write(one.body.ljust(-len(one.body) % 512 + len(one.body), b"\0"))
    return file.getvalue()


def sealed(parts: Parts, members: list[Member], **changes: Any) -> bytes:
    """A backup with digests that fit, as by somebody who has no key."""
    manifest = parts.manifest()
    for one in members:
        table = one.name.removeprefix("catalog/").removesuffix(".jsonl.gz")
        if one.name.startswith("catalog/"):
            try:
                lines = gzip.decompress(one.body)
            except (OSError, EOFError):
                continue
            manifest["tables"][table] = {
                "rows": lines.count(b"\n"),
                "bytes": len(lines),
                "sha256": hashlib.sha256(lines).hexdigest(),
            }
    return resealed(members, manifest | changes)


def resealed(members: list[Member], found: dict[str, Any], **header: Any) -> bytes:
    written = json.dumps(found).encode()
    digest = hashlib.sha256(written).hexdigest()
    head = {"format": 2, "manifest": digest, "signature": None} | header
    rest = [one for one in members if one.name not in (HEADER, MANIFEST)]
    return packed([*rest, Member(MANIFEST, written), Member(HEADER, json.dumps(head).encode())])


def first_format(backup: Path, target: Path) -> Path:
    """The same backup as an earlier version wrote it."""
    parts = take_apart(backup, target.parent)
    manifest = parts.manifest()
    head = {
        "format": 1,
        "revision": manifest["revision"],
        "created": manifest["created"],
        "rows": {name: entry["rows"] for name, entry in manifest["tables"].items()},
        "blobs": len(manifest["blobs"]),
        "bytes": sum(manifest["blobs"].values()),
        "damaged": [],
    }
    rest = [one for one in parts.members if one.name not in (HEADER, MANIFEST)]
    target.write_bytes(packed([*rest, Member(HEADER, json.dumps(head).encode())]))
    return target


# ---- ways to change one -----------------------------------------------------------------------------------


def flipped(name: str, offset: int = 3) -> Callable[[Parts], bytes]:
    def harm(parts: Parts) -> bytes:
        body = bytearray(parts.whole)
        body[parts.at(name if "/" in name or "." in name else largest(parts).name) + offset] ^= 0x41
        return bytes(body)

    return harm


def largest(parts: Parts) -> Member:
    return max(parts.blobs(), key=lambda one: len(one.body))


def smallest(parts: Parts) -> Member:
    return min(parts.blobs(), key=lambda one: len(one.body))


def cut(share: float) -> Callable[[Parts], bytes]:
    return lambda parts: parts.whole[: int(len(parts.whole) * share)]


def cut_in(name: str) -> Callable[[Parts], bytes]:
    return lambda parts: parts.whole[: parts.at(name) + 5]


def without(*names: str) -> Callable[[Parts], bytes]:
    return lambda parts: packed([one for one in parts.members if one.name not in names])


def with_member(member: Member, first: bool = False) -> Callable[[Parts], bytes]:
    return lambda parts: packed([member, *parts.members] if first else [*parts.members, member])


def instead(name: str, make: Callable[[Parts, Member], Member]) -> Callable[[Parts], bytes]:
    """Another member in place of one; "blob" names the smallest blob."""

    def harm(parts: Parts) -> bytes:
        old = smallest(parts) if name == "blob" else parts.of(name)
        return packed([make(parts, old) if one == old else one for one in parts.members])

    return harm


def with_body(name: str, body: bytes) -> Callable[[Parts], bytes]:
    return instead(name, lambda parts, old: replace(old, body=body))


def with_manifest(change: Callable[[dict[str, Any]], object], **header: Any) -> Callable[[Parts], bytes]:
    def harm(parts: Parts) -> bytes:
        manifest = parts.manifest()
        change(manifest)
        return resealed(parts.members, manifest, **header)

    return harm


def with_lines(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Parts], bytes]:
    """A table with other lines, and digests that fit."""

    def harm(parts: Parts) -> bytes:
        return sealed(parts, changed_lines(parts, name, change))

    return harm


def changed_lines(parts: Parts, name: str, change: Callable[[list[bytes]], list[bytes]]) -> list[Member]:
    lines = gzip.decompress(parts.of(name).body).splitlines(keepends=True)
    changed = gzip.compress(b"".join(change(lines)))
    return [replace(one, body=changed) if one.name == name else one for one in parts.members]


def with_value(name: str, column: str, value: Any) -> Callable[[Parts], bytes]:
    return with_lines(name, lambda lines: [edited(lines[0], {column: value}), *lines[1:]])


def edited(line: bytes, values: dict[str, Any], drop: str = "") -> bytes:
    row = json.loads(line) | values
    row.pop(drop, None)
    return json.dumps(row).encode() + b"\n"


def admin(lines: list[bytes]) -> list[bytes]:
    return [*lines, edited(lines[0], {"name": "mallory", "roles": ["admin"]})]


def password(lines: list[bytes]) -> list[bytes]:
    return [edited(lines[0], {"password_hash": "scrypt$known"}), *lines[1:]]


def unsealed(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Parts], bytes]:
    return lambda parts: packed(changed_lines(parts, name, change))


def swapped(parts: Parts) -> bytes:
    one, other = parts.blobs()[:2]
    bodies = {one.name: other.body, other.name: one.body}
    return packed([replace(each, body=bodies.get(each.name, each.body)) for each in parts.members])


def raw_table(body: bytes, **entry: Any) -> Callable[[Parts], bytes]:
    """The users' table as these bytes; its entry says what is given."""

    def harm(parts: Parts) -> bytes:
        manifest = parts.manifest()
        manifest["tables"]["users"] |= entry
        members = [replace(one, body=body) if one.name == USERS else one for one in parts.members]
        return resealed(members, manifest)

    return harm


def zipped(parts: Parts) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for one in parts.members[:5]:
            archive.writestr(one.name, one.body)
    return file.getvalue()


def sqlite_file(parts: Parts) -> bytes:
    return (parts.folder / "workspace" / "catalog.sqlite").read_bytes()


def other_manifest(parts: Parts) -> bytes:
    """The manifest, with its right signature, of another backup of the same workspace."""
    other = parts.folder / "other.tar"
    if not other.exists():
        workspace = create_workspace(parts.folder / "workspace")
        with workspace.catalog() as catalog:
            catalog.users.add(User(name="ben", roles=("rater",)), "hash")
            catalog.commit()
        back_up(workspace, other, key=KEY)
        workspace.close()
    theirs = take_apart(other, parts.folder)
    mine = [one for one in parts.members if one.name not in (HEADER, MANIFEST)]
    return packed([*mine, theirs.of(MANIFEST), theirs.of(HEADER)])


def with_entry(name: str, **values: Any) -> Callable[[Parts], bytes]:
    """Another entry of a table in the manifest."""
    return with_manifest(lambda found: found["tables"][name].update(values))


BOMB = gzip.compress(bytes(64 * 1024 * 1024), 9)
DEEP = b"[" * 200_000 + b"]" * 200_000 + b"\n"

KINDS = (
    Kind("an empty file", lambda parts: b""),
    Kind("a text", lambda parts: b"hello\n" * 5000),
    Kind("a zip file", zipped),
    Kind("a compressed backup", lambda parts: gzip.compress(parts.whole[: 1 << 20])),
    Kind("a catalog", sqlite_file),
    Kind("random bytes", lambda parts: bytes(hashlib.shake_256(b"x").digest(50_000))),
    Kind("zeros", lambda parts: bytes(50_000)),
    Kind("a tar file of something else", lambda parts: packed([Member("readme", b"hello")])),
    Kind("a backup inside a tar file", lambda parts: packed([Member("backup.tar", parts.whole)])),
    *(Kind(f"cut at {share:.0%}", cut(share)) for share in (0.01, 0.25, 0.5, 0.9, 0.99)),
    *(Kind(f"cut in {name}", cut_in(name)) for name in (USERS, MANIFEST, HEADER)),
    *(Kind(f"a flipped byte in {name}", flipped(name)) for name in (MANIFEST, HEADER, "blob")),
    Kind("a flipped byte in a table", flipped(USERS, 30)),
    Kind("a flipped byte in a table's frame", flipped(IMAGES, 0)),
    Kind("a flipped byte in a member's name", flipped(USERS, -510)),
    Kind("a flipped byte in the first member's head", lambda parts: b"y" + parts.whole[1:]),
    Kind("something after its end", lambda parts: parts.whole + b"more" * 500),
    Kind("two in one file", lambda parts: parts.whole + parts.whole),
    Kind("no header", without(HEADER)),
    Kind("no manifest", without(MANIFEST)),
    Kind("a table is missing", without(USERS)),
    Kind("all blobs are missing", lambda parts: without(*(one.name for one in parts.blobs()))(parts)),
    Kind("a blob is missing", lambda parts: without(smallest(parts).name)(parts)),
    Kind("a blob too many", with_member(Member(f"blobs/{hashlib.sha256(b'x').hexdigest()}", b"x"))),
    Kind("a table too many", with_member(Member("catalog/spies.jsonl.gz", gzip.compress(b"")))),
    Kind("a file too many", with_member(Member("readme.txt", b"hello"))),
    Kind("a key file", with_member(Member("session.key", b"x" * 32))),
    Kind("a blob twice", lambda parts: packed([*parts.members, smallest(parts)])),
    Kind("a table twice", lambda parts: packed([*parts.members, parts.of(USERS)])),
    Kind("the header twice", lambda parts: packed([parts.of(HEADER), *parts.members])),
    Kind("a name with ..", instead("blob", lambda parts, old: replace(old, name="blobs/../../escaped"))),
    Kind("an absolute name", instead("blob", lambda parts, old: replace(old, name="/tmp/escaped"))),
    Kind("a name that is no hash", instead("blob", lambda parts, old: replace(old, name="blobs/x"))),
    *(
        Kind(f"a {what}", instead("blob", lambda parts, old, k=kind: Member(old.name, b"", k, "/etc/passwd")))
        for what, kind in (
            ("symbolic link", tarfile.SYMTYPE),
            ("hard link", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
            ("sparse file", tarfile.GNUTYPE_SPARSE),
        )
    ),
    Kind("two blobs exchanged", swapped),
    Kind("an empty blob", with_body("blob", b"")),
    Kind("a larger blob", instead("blob", lambda parts, old: replace(old, body=old.body + b"x"))),
    Kind("a huge size", with_member(Member("blobs/" + "a" * 64, b"x", claimed=1 << 60))),
    Kind("a header that is no JSON", with_body(HEADER, b"format: 2")),
    Kind("a header that is no text", with_body(HEADER, b"\xff\xfe\x00")),
    Kind("a header that is a list", with_body(HEADER, b"[2]")),
    Kind("a header that is deep", with_body(HEADER, DEEP)),
    Kind("a later format", with_body(HEADER, b'{"format": 3}')),
    Kind("a format in words", with_body(HEADER, b'{"format": "two"}')),
    Kind("a manifest that is no JSON", with_body(MANIFEST, b"tables: none")),
    Kind("another digest of the manifest", with_manifest(lambda found: None, manifest="0" * 64)),
    Kind("another signature", with_manifest(lambda found: None, signature="0" * 64)),
    Kind("no signature", with_manifest(lambda found: None)),
    Kind("another key", lambda parts: parts.whole, key=b"the key of somebody else, 32 bytes"),
    Kind("the manifest of another backup", other_manifest),
    Kind("an admin added", unsealed(USERS, admin)),
    Kind("a password changed", unsealed(USERS, password)),
    Kind("an admin added and sealed again", with_lines(USERS, admin)),
    Kind("a password changed and sealed again", with_lines(USERS, password)),
    # From here on sealed, without a signature and restored without a key: the content is refused.
    *(
        Kind(name, harm, key=None)
        for name, harm in (
            ("a newer schema", with_manifest(lambda found: found.update(revision="9999"))),
            ("a schema that is a path", with_manifest(lambda found: found.update(revision="../0001"))),
            ("an older schema than its tables", with_manifest(lambda found: found.update(revision="0001"))),
            ("another format in a sealed one", with_manifest(lambda found: None, format=7)),
            ("unknown parts of the manifest", with_manifest(lambda found: found.update(more=1))),
            ("a manifest without tables", with_manifest(lambda found: found.update(tables={}))),
            ("a manifest without blobs", with_manifest(lambda found: found.update(blobs={}))),
            ("a negative count", with_entry("users", rows=-1)),
            ("a count in words", with_entry("users", rows="one")),
            (
                "more rows than there are",
                with_entry("users", rows=2),
            ),
            (
                "fewer rows than there are",
                with_entry("images", rows=1),
            ),
            ("an endless count", with_entry("users", rows=10**30)),
            ("no digest of a table", with_entry("users", sha256=None)),
            (
                "another digest of a table",
                with_entry("users", sha256="0" * 64),
            ),
            ("other bytes of a table", with_entry("users", bytes=3)),
            (
                "a size that is not the blob's",
                with_manifest(lambda found: found["blobs"].update({"a" * 64: 1})),
            ),
            ("a bomb", raw_table(BOMB)),
            ("a bomb that is announced", raw_table(BOMB, bytes=64 * 1024 * 1024, rows=1)),
            ("a table that is not compressed", raw_table(b"{}\n")),
            ("a table with a second part", raw_table(gzip.compress(b"") + gzip.compress(b"{}\n"))),
            ("an unknown table", lambda parts: sealed(parts, [*parts.members, spies()])),
            ("a row that is no JSON", with_lines(USERS, lambda lines: [b"name: anna\n"])),
            ("a row that is a list", with_lines(USERS, lambda lines: [b"[]\n"])),
            ("a row that is no text", with_lines(USERS, lambda lines: [b'{"name": "\xff\xfe"}\n'])),
            ("a row that is deep", with_lines(USERS, lambda lines: [DEEP])),
            ("a row with half a character", with_value(USERS, "password_hash", "\ud800")),
            ("an unknown column", with_value(USERS, "spy", 1)),
            (
                "a missing column",
                with_lines(USERS, lambda lines: [edited(lines[0], {}, drop="active")]),
            ),
            ("a text for a number", with_value(IMAGES, "height", "four")),
            ("a number for a text", with_value(IMAGES, "sha256", 4)),
            ("a fraction for a count", with_value(IMAGES, "width", 0.5)),
            ("a number for yes or no", with_value(USERS, "active", 2)),
            ("nothing where something has to be", with_value(IMAGES, "sha256", None)),
            ("a number that is too large", with_value(IMAGES, "seed", 2**70)),
            ("bytes that are no bytes", with_value("catalog/drafts.jsonl.gz", "label_map", "§")),
            ("a label of no image", with_value(LABELS, "image_id", "nowhere")),
            ("a row twice", with_lines(IMAGES, lambda lines: [*lines, lines[0]])),
            ("no identity", with_lines(IDENTITY, lambda lines: [])),
            (
                "two identities",
                with_lines(
                    "catalog/workspace.jsonl.gz", lambda lines: [*lines, edited(lines[0], {"id": "x"})]
                ),
            ),
        )
    ),
)


def spies() -> Member:
    return Member("catalog/spies.jsonl.gz", gzip.compress(b'{"name": "mallory"}\n'))


# ---- how damage is handled --------------------------------------------------------------------------------


def damaged_files(parts: Parts) -> Iterator[tuple[Kind, Path]]:
    """One file at a time, deleted after use."""
    for kind in KINDS:
        path = parts.folder / "damaged.tar"
        path.write_bytes(kind.harm(parts))
        yield kind, path
        path.unlink()


def wrong_with(damaged: Path, target: Path, key: bytes | None) -> str:
    """What is wrong with the way a damaged backup was handled: "" if it was refused in one line, and the
    target folder is as it was (absent, or empty).
    """
    there = target.exists()
    try:
        restore(damaged, target, key=key).close()
    except ClinicError as error:
        problem = "" if len(str(error).splitlines()) == 1 and len(str(error)) < 700 else "not one line"
    except BaseException as error:
        problem = f"ended in a traceback: {type(error).__name__}: {error}"
    else:
        problem = "was taken"
        shutil.rmtree(target)
        return problem
    left = sorted(path.name for path in target.rglob("*")) if target.exists() else []
    if left or target.exists() != there:
        problem = f"{problem} left {left or 'an empty folder'}"
    return problem.strip()
