"""Erasure, attacked: a person who did everything, an image with everything, and a search of every place.

The search knows nothing of the product's tables: it reads every column of the database that there is, and
every file of the workspace as bytes, unpacked where it is a gzip, zip, tar or Parquet file. What free pages
and the write-ahead log of a SQLite file hold is found by comparison with a fresh copy of its rows.
"""

import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from sqlalchemy import LargeBinary, MetaData, String, cast, insert, inspect, select

from dataengine.masks import PackedMap
from dataengine.records import SnapshotItem, image_id
from storage import tables
from storage.maintenance.backup import back_up
from storage.maintenance.erase import Erased
from storage.workspace import Workspace

PERSON = "Zwölfgesicht-7f3a"
OTHER = "bob"
SIZE = 16
DATABASES = ("catalog.sqlite", "jobs.sqlite")


@dataclass(frozen=True)
class World:
    """What was filled in: the person, the image, and the names of blobs that are theirs alone."""

    person: str
    image: str
    person_blobs: tuple[str, ...]
    image_blobs: tuple[str, ...]
    snapshot: str


# ---- filling -----------------------------------------------------------------------------------------------


def fill(workspace: Workspace) -> World:
    """A workspace in which the person did everything that there is, on the image and on others."""
    images = [_image(workspace, number) for number in range(4)]
    target, second, third, plain = (image["id"] for image in images)
    mine = [workspace.blobs.put(_map(value)) for value in (1, 2, 3)]
    theirs = workspace.blobs.put(_map(9))
    with workspace.catalog() as catalog:
        put = catalog.connection.execute
        put(insert(tables.images), images)
        for table, rows in _rows(target, second, third, plain, mine, theirs).items():
            put(insert(tables.metadata.tables[table]), rows)
        catalog.commit()
    shas = {image["id"]: image["sha256"] for image in images}
    snapshot = workspace.snapshots.publish(
        SnapshotItem(image_id=id, image_sha256=shas[id], kind="true", target=map_, author=author)
        for id, map_, author in (
            (target, mine[0], PERSON),
            (second, mine[1], f"{OTHER} + {PERSON}"),
            (plain, theirs, OTHER),
        )
    ).id
    workspace.snapshots.export(snapshot, shard_rows=1)
    _files(workspace, target, mine)
    back_up(workspace, workspace.path / "backups" / "before.tar")
    return World(
        person=PERSON,
        image=target,
        person_blobs=(mine[0], mine[1]),
        image_blobs=(shas[target], images[0]["thumbnail"], mine[0]),
        snapshot=snapshot,
    )


def _image(workspace: Workspace, number: int) -> dict[str, Any]:
    from PIL import Image as Picture

    pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    body, small = io.BytesIO(), io.BytesIO()
    Picture.fromarray(pixels).save(body, format="PNG")
    Picture.fromarray(pixels[::2, ::2]).save(small, format="PNG")
    sha256 = workspace.blobs.put(body.getvalue())
    return {
        "id": image_id(sha256, None, f"prompt {number}", number),
        "sha256": sha256,
        "thumbnail": workspace.blobs.put(small.getvalue()),
        **{"height": SIZE, "width": SIZE, "media_type": "image/png", "prompt": f"prompt {number}"},
        **{"settings": {}, "source": "generated", "origin": "", "licence": "", "split": "train"},
        **{"group": str(number), "purpose": "survey", "status": "active", "created": 1.0},
    }


def _map(value: int) -> bytes:
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[value : value + 4, 2:9] = 1 + value % 3
    return PackedMap.of(pixels).data


def _rows(
    target: str, second: str, third: str, plain: str, mine: Sequence[str], theirs: str
) -> dict[str, list[dict[str, Any]]]:
    """Rows by table, in the order in which they may be inserted."""
    at = {"created": 2.0}
    text = f"@{PERSON} see {target}; {PERSON}'s lines are thin, says {PERSON}."

    def label(image: str, author: str, blob: str, note: str = "", revision: int = 1) -> dict[str, Any]:
        base = {"image_id": image, "author": author, "revision": revision, "label_map": blob, "note": note}
        return {**base, "height": SIZE, "width": SIZE, "clean": False, "source": "person"} | {
            "lead_seconds": 1.0,
            "regions": ((1, (2, 0, 9, SIZE), note, 50),) if note else (),
            **at,
        }

    def review(image: str, author: str, reviewer: str, note: str) -> dict[str, Any]:
        base = {"image_id": image, "author": author, "revision": 1, "reviewer": reviewer, "note": note}
        return base | {"verdict": "rejected", **at}

    def audit(actor: str, action: str, subject: str, details: object) -> dict[str, Any]:
        return {"actor": actor, "action": action, "subject": subject, "details": details, "at": 2.0}

    def item(image: str) -> dict[str, Any]:
        base = {"image_id": image, "round_id": "r", "kind": "draw", "priority": 1.0, "reason": text}
        return base | {"annotations_per_image": 2, "given": 1, "done": False}

    key = {"round_id": "r", "kind": "draw"}
    draft = {"id": "bench2", "version": 2, "name": f"bench of {PERSON}", "state": "draft", "settings": {}}
    frozen = {"id": "bench1", "version": 1, "name": "first", "state": "frozen", "settings": {}}
    settled = {"stratum": "hand", "kind": "true", "annotations_per_image": 1, "settled": True}
    job = {"kind": "import", "progress": 1.0, "cancel_requested": False, "pause_requested": False, **at}
    return {
        "users": [
            {"name": name, "roles": ("annotator",), "active": True, "created": 1.0, "password_hash": "x"}
            for name in (PERSON, OTHER)
        ],
        "sessions": [{"token_hash": "t", "user": PERSON, "csrf": "c", "created": 1.0, "expires": 9e9}],
        "api_tokens": [
            {"id": "t", "user": PERSON, "name": f"{PERSON}'s", "roles": (), "token_hash": "", **at}
        ],
        "identities": [{"issuer": "https://sso.example", "subject": "1", "user": PERSON, **at}],
        "labels": [
            label(target, PERSON, mine[0], f"by {PERSON}"),
            label(second, PERSON, mine[1]),
            label(second, OTHER, theirs, text),
            label(third, PERSON, theirs),
            label(target, OTHER, mine[2]),
            label(plain, OTHER, theirs),
        ],
        "label_map_facts": [{"sha256": blob, "classes": 1, "area": 0.1} for blob in (*mine, theirs)],
        "reviews": [review(target, PERSON, OTHER, text), review(second, OTHER, PERSON, "no"),
                    review(target, OTHER, OTHER, text)],
        "comments": [
            {"id": "c1", "image_id": second, "author": PERSON, "text": "mine", **at},
            {"id": "c2", "image_id": second, "author": OTHER, "text": text, **at},
        ],
        "drafts": [
            {"image_id": target, "author": PERSON, "label_map": _map(5), "regions": (), "seconds": 1.0,
             "saved": 1.0},
            {"image_id": third, "author": OTHER, "label_map": _map(5), "seconds": 1.0, "saved": 1.0,
             "regions": ((1, (2, 0, 9, SIZE), text, None),)},
        ],
        "receipts": [
            {"author": PERSON, "key": "k", "digest": "d", "image_id": target, "revision": 1, **at}
        ],
        "gold_images": [
            {"image_id": second, "label_map": mine[1], "clean": False, "chosen_by": OTHER, **at},
            {"image_id": third, "label_map": None, "clean": True, "chosen_by": PERSON, **at},
        ],
        "gold_scores": [
            {"image_id": third, "author": PERSON, "revision": 1, "iou": 1.0, "right_class": 1.0, **at}
        ],
        "queue_items": [item(target), item(second)],
        "queue_takers": [{"image_id": second, "person": PERSON, **key}],
        "queue_answers": [
            {"image_id": target, "author": PERSON, "skipped": True, "reason": text, **key, **at},
            {"image_id": second, "author": OTHER, "skipped": True, "reason": text, **key, **at},
        ],
        "leases": [{"id": "l", "image_id": second, "annotator": PERSON, "expires": 9e9, **key}],
        "benchmarks": [
            frozen | {"created_by": PERSON, "frozen_by": PERSON, **at},
            draft | {"created_by": PERSON, "frozen_by": None, **at},
        ],
        "benchmark_items": [
            settled | {"benchmark_id": "bench2", "image_id": second, "target": mine[1],
                       "settled_by": PERSON, "how": f"{PERSON}'s label"},
            settled | {"benchmark_id": "bench1", "image_id": third, "target": theirs,
                       "settled_by": PERSON, "how": f"{PERSON}'s label"},
        ],
        "studies": [
            {"id": "s", "name": f"for {PERSON}", "before_id": "g", "after_id": "h", "seed": 1, **at,
             "pairs": ((target, second),), "state": "open", "design": {}, "created_by": PERSON}
        ],
        "votes": [
            {"study_id": "s", "pair": 0, "rater": PERSON, "question": "quality", "choice": "tie",
             "seconds": 1.0, **at}
        ],
        "invitations": [
            {"token_hash": "i", "study_id": "s", "created_by": PERSON, "expires": 9e9, "places": 1,
             "taken": 1, **at}
        ],
        "guests": [{"name": PERSON, "study_id": "s", **at}],
        "endpoints": [
            {"id": "hook", "kind": "webhook", "name": "chat", "location": "https://chat.example",
             "settings": {}, **at}
        ],
        "webhook_deliveries": [
            {"id": "d", "endpoint_id": "hook", "message_id": "m", "event": "job failed", "subject": "j",
             "body": text, "state": "failed", "attempts": 1, "next_at": 0.0, "error": text, **at}
        ],
        "image_tags": [{"image_id": target, "tag": "to check"}],
        "saved_views": [
            {"id": "own", "name": "mine", "owner": PERSON, "shared": True, "query": {}, **at},
            {"id": "other", "name": f"for {PERSON}", "owner": OTHER, "shared": True,
             "query": {"search": f"hand {PERSON}"}, **at},
        ],
        "pilots": [
            {"id": "pilot-1", "name": f"with {PERSON}", "created_by": PERSON, "images": 1,
             "annotations_per_image": 2, **at}
        ],
        "rounds": [
            {"id": "r", "recipe": {"name": "demo", "note": text, "by": PERSON}, "stage": "done",
             "state": "done", "results": {"mine": {"images": [target], "people": [PERSON]}},
             "message": text, **at}
        ],
        "jobs": [
            job | {"id": "j", "state": "failed", "requested_by": PERSON, "message": text,
                   "error": text, "failure": text,
                   "args": {"author": PERSON, "images": [target]}, "result": {"note": text}}
        ],
        "job_files": [{"job_id": "j", "name": "log.txt", "number": 1, "text": f"{text}\n"}],
        "audit_events": [
            audit(PERSON, "session.open", PERSON, {}),
            audit(f"{PERSON} (command line)", "gold.choose", target, {"by": PERSON}),
            audit(OTHER, "label.review", target, {"author": PERSON, "note": text, "images": [target]}),
        ],
    }  # fmt: skip


def _files(workspace: Workspace, target: str, mine: Sequence[str]) -> None:
    """Logs, a job's notes, leftovers of killed writers, the trash, and the work queue's database."""
    text = f"{PERSON} asked for {target}\n"
    job = workspace.path / "jobs" / "j"
    job.mkdir(parents=True)
    (job / "log.txt").write_text(text)
    (job / "metrics.jsonl").write_text(json.dumps({"by": PERSON, "image": target}) + "\n")
    (workspace.path / "worker.log").write_text(text)
    (workspace.path / "backups").mkdir(exist_ok=True)
    (workspace.path / "backups" / ".old.tar.1.partial").write_text(text)
    if workspace.blobs.folder is not None:
        (workspace.blobs.folder / "tmp").mkdir(exist_ok=True)
        (workspace.blobs.folder / "tmp" / f"{mine[0]}.1.1").write_bytes(_map(1))
        trashed = workspace.blobs.folder / "trash" / mine[0]
        trashed.parent.mkdir(exist_ok=True)
        trashed.write_bytes(_map(1))
    if workspace.own_database:
        with closing(sqlite3.connect(workspace.path / "jobs.sqlite")) as queue:
            queue.execute("PRAGMA journal_mode=WAL")
            queue.execute("CREATE TABLE workflow_status (workflow_uuid TEXT PRIMARY KEY, status TEXT, "
                          "authenticated_user TEXT, error TEXT)")  # fmt: skip
            row = ("j", "ERROR", PERSON, f"about {target}")
            queue.execute("INSERT INTO workflow_status VALUES (?, ?, ?, ?)", row)
            queue.execute("INSERT INTO workflow_status VALUES ('k', 'ERROR', ?, '')", (PERSON,))
            queue.execute("DELETE FROM workflow_status WHERE workflow_uuid = 'k'")
            queue.commit()


# ---- searching ---------------------------------------------------------------------------------------------


def search(workspace: Workspace, words: Iterable[str], *folders: Path) -> dict[str, int]:
    """How often the words are found, by place: columns, files of the workspace and of the folders, free
    pages of its databases. Places without a find are among them, with 0."""
    forms = sorted({form.encode() for word in words for form in _forms(word)})
    found = dict(_columns(workspace, forms))
    for root in (workspace.path, *folders):
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.name.startswith(DATABASES):
                name = str(path.relative_to(root.parent))
                found[name] = _count(name.encode(), forms)
                for inner, body in _bodies(name, path.read_bytes()):
                    found[inner] = found.get(inner, 0) + _count(body, forms)
    for name in DATABASES:
        if (workspace.path / name).exists():
            found |= _free_pages(workspace.path / name, forms)
    return found


def _forms(word: str) -> set[str]:
    """How a word may be written: as text, in JSON, in a URL, in lower case."""
    return {form for one in (word, word.lower()) for form in (one, json.dumps(one)[1:-1], quote(one))}


def _count(body: bytes, forms: Sequence[bytes]) -> int:
    return sum(body.count(form) for form in forms)


def _columns(workspace: Workspace, forms: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    with workspace.engine.connect() as connection:
        schema = MetaData()
        schema.reflect(connection)
        if connection.dialect.name == "postgresql" and inspect(connection).has_schema("dbos"):
            schema.reflect(connection, schema="dbos")
        for table in schema.sorted_tables:
            for column in table.c:
                shown = column if isinstance(column.type, LargeBinary) else cast(column, String)
                values = connection.scalars(select(shown).where(column.is_not(None)))
                count = sum(_count(v if isinstance(v, bytes) else str(v).encode(), forms) for v in values)
                yield f"{table.name}.{column.name}", count


def _bodies(name: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes, and those of everything packed in them; members of archives under "ARCHIVE: MEMBER"."""
    if body[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                yield name, entry.name.encode()
                yield from _bodies(f"{name}: {entry.name}", content.read() if content else b"")
        return
    yield name, body
    if body[:2] == b"\x1f\x8b":
        yield from _bodies(name, gzip.decompress(body))
    elif body[:4] == b"PAR1":
        import pyarrow.parquet as parquet

        yield name, repr(parquet.read_table(io.BytesIO(body)).to_pylist()).encode()
    elif body[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            for member in archive.namelist():
                yield from _bodies(f"{name}: {member}", archive.read(member))


def _free_pages(path: Path, forms: Sequence[bytes]) -> dict[str, int]:
    """What the database's files hold beyond its rows; the rows alone are in a fresh copy of it."""
    files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-journal")]
    raw = {file.name: _count(file.read_bytes(), forms) for file in files if file.exists()}
    copy = path.with_name(path.name + ".copy")
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM INTO ?", (str(copy),))
    rows = _count(copy.read_bytes(), forms)
    copy.unlink()
    raw[path.name] = max(0, raw[path.name] - rows)
    return {f"free pages of {name}": count for name, count in raw.items()}


def left(workspace: Workspace, report: Erased, found: dict[str, int]) -> dict[str, int]:
    """The places with a find that the answer does not name.

    It names columns, backups, and snapshots: their manifests and rows, also in a later backup.
    """
    columns = {one.kind for one in report.remains if "." in one.kind}
    columns |= {"snapshot_items.target"} if report.snapshots else set()
    root = workspace.path.name
    known = {f"{root}/{one.name.split(' of ')[0]}" for one in report.remains if one.kind == "backup"}
    with workspace.catalog(read_only=True) as catalog:
        manifests = [catalog.snapshots.get(id).manifest for id in report.snapshots]
    known |= {f"{root}/blobs/{manifest[:2]}/{manifest}" for manifest in manifests}
    members = {f"blobs/{manifest}" for manifest in manifests}
    members |= {f"catalog/{place.partition('.')[0]}.jsonl.gz" for place in columns}

    def is_named(place: str) -> bool:
        archive, _, member = place.partition(": ")
        return place in columns or archive in known or member in members

    return {place: count for place, count in found.items() if count and not is_named(place)}
