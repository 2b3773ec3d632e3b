"""A command and a desk that do the same leave the same rows and the same audit event."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import app
from dataengine.errors import Conflict
from dataengine.masks import pack_label_map
from dataengine.records import (
    BenchmarkItem,
    DetectorVersion,
    Guest,
    Image,
    Invitation,
    Label,
    Round,
    image_id,
    now,
)
from dataengine.records.images import JUDGE
from pipelines.services.studies.lifecycle import close_study, open_round_study
from storage import accounts
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, PASSWORD, SIDE, add_people, furnish, png, sign_in
from ui.config import ServerConfig
from ui.server import create_app

SEED = 77
ROUND_ID = "round-judged"
WHO_AND_WHEN = ("at", "actor", "created", "created_by", "frozen", "frozen_by", "settled_by")
"""Fields in which the two may differ."""
Do = Callable[..., Any]


class Pair:
    """One workspace twice: in the one a command is run, at the desk of the other somebody does the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = create_workspace(folder / "command")
        furnish(self.workspace)
        add_people(self.workspace)

    def split(self) -> None:
        """Copy the workspace as it is now."""
        self.workspace.close()
        shutil.copytree(self.folder / "command", self.folder / "desk")

    def command(self, *words: str) -> int:
        return app.main(["--workspace", str(self.folder / "command"), *words])

    def desk(self, person: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        workspace = open_workspace(self.folder / "desk")
        client = TestClient(create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN)
        answer = sign_in(client, person).post(path, json=body)
        workspace.close()
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def both(self, read: Callable[[Any], Any]) -> tuple[Any, Any]:
        """What `read` finds in the catalog after the command, and after the desk."""
        found = []
        for name in ("command", "desk"):
            workspace = open_workspace(self.folder / name)
            with workspace.catalog(read_only=True) as catalog:
                found.append(read(catalog))
            workspace.close()
        return found[0], found[1]

    def events(self, *actions: str) -> tuple[Any, Any]:
        """The audit events of these actions, but for who and when."""
        return self.both(
            lambda catalog: sorted(
                (
                    bare(event)
                    for event in catalog.audit.list(limit=1000)
                    if event.action in actions and event.actor != "test"
                ),
                key=str,
            )
        )


def bare(record: Any) -> dict[str, Any]:
    """A record's fields but for who and when."""
    return {name: value for name, value in asdict(record).items() if name not in (*WHO_AND_WHEN, "id")}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.workspace.close()


def judged_round(workspace: Workspace, pairs: int = 6) -> None:
    """A round that has treated a generator and judged it on so many prompts."""
    pictures = workspace.blobs.put_many([png(100 + index) for index in range(2 * pairs)])
    images = [
        Image(
            id=image_id(sha256, ("base", "treated")[index % 2], f"prompt {index // 2}", index // 2),
            sha256=sha256,
            height=SIDE,
            width=SIDE,
            prompt=f"prompt {index // 2}",
            generator_id=("base", "treated")[index % 2],
            seed=index // 2,
            round_id=ROUND_ID,
            purpose=JUDGE,
        )
        for index, sha256 in enumerate(pictures)
    ]
    treat = {"generator": "base", "treated": "treated"}
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.rounds.add(
            Round(id=ROUND_ID, recipe={}, stage="done", state="done", results={"treat": treat})
        )
        catalog.commit()


def test_opening_a_study(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_round(pair.workspace)
    pair.split()
    words = ("--round", ROUND_ID, "--name", "first look", "--seed", str(SEED), "--pairs", "4")
    assert pair.command("study", "open", *words) == 0
    monkeypatch.setattr(secrets, "randbits", lambda bits: SEED)
    wanted = {"name": "first look", "before": "base", "after": "treated", "round": ROUND_ID, "pairs": 4}
    pair.desk("engineer", "/api/studies", wanted | {"purpose": JUDGE})
    here, there = pair.both(lambda catalog: [(one.id, bare(one)) for one in catalog.studies.list()])
    assert here == there and len(here) == 1 and len(here[0][1]["pairs"]) == 4
    here, there = pair.events("study.open")
    assert here == there and [event["details"] for event in here] == [{"pairs": 4}]


def test_opening_the_same_study_again_returns_it(pair: Pair) -> None:
    judged_round(pair.workspace)
    first = open_round_study(pair.workspace, ROUND_ID, "ada", seed=SEED)
    again = open_round_study(pair.workspace, ROUND_ID, "ben", seed=SEED)
    assert again == first and len(first.pairs) == 6
    with pair.workspace.catalog(read_only=True) as catalog:
        assert len(catalog.audit.list(action="study.open")) == 1


def test_closing_a_study(pair: Pair) -> None:
    judged_round(pair.workspace)
    study = open_round_study(pair.workspace, ROUND_ID, "test", seed=SEED)
    with pair.workspace.catalog() as catalog:
        accounts.create_user(catalog, "rater-1", PASSWORD, ["rater"], "test")
        catalog.guests.add(Guest(name="rater-1", study_id=study.id))
        accounts.sign_in(catalog, "rater-1", PASSWORD)
        catalog.invitations.add(
            Invitation(
                token_hash="0" * 64, study_id=study.id, created_by="test", expires=now() + 3600, places=2
            )
        )
        catalog.commit()
    pair.split()
    assert pair.command("study", "close", study.id) == 0
    pair.desk("engineer", f"/api/studies/{study.id}/close", {})

    def left(catalog: Any) -> tuple[Any, ...]:
        (invitation,) = catalog.invitations.of_study(study.id)
        guest = catalog.users.get("rater-1")
        return catalog.studies.get(study.id).state, invitation.expires <= now(), guest.active

    assert pair.both(left) == (("closed", True, False),) * 2
    here, there = pair.events("study.close", "user.close")
    assert here == there and len(here) == 2
    assert pair.command("study", "close", study.id) == 0, (
        "as before, closing twice is no error of the command"
    )
    workspace = open_workspace(pair.folder / "command")
    with pytest.raises(Conflict, match="already closed"):
        close_study(workspace, study.id, "ada")
    workspace.close()


def known_images(workspace: Workspace) -> None:
    """Four images that are reserved for the benchmark, each with a label, one of them clean."""
    square = np.zeros((SIDE, SIDE), np.uint8)
    square[10:20, 10:30] = 1
    blob = workspace.blobs.put(pack_label_map(square))
    with workspace.catalog(read_only=True) as catalog:
        known = catalog.images.find()[:4]
        maps = {one.image_id: one for one in catalog.predictions.of("d1", [image.id for image in known])}
    shas = workspace.blobs.put_many([png(200 + index) for index in range(4)])
    with workspace.catalog() as catalog:
        for index, (image, sha256) in enumerate(zip(known, shas, strict=True)):
            made = replace(image, id=f"known-{index}", sha256=sha256, split="benchmark", group=f"g{index}")
            catalog.images.add_many([made])
            catalog.predictions.add_many([replace(maps[image.id], image_id=made.id)])
            catalog.labels.submit(
                Label(
                    image_id=made.id,
                    author="annotator",
                    height=SIDE,
                    width=SIDE,
                    label_map=blob if index else None,
                    clean=not index,
                )
            )
        catalog.commit()


def test_freezing_a_draft(pair: Pair) -> None:
    with pair.workspace.catalog() as catalog:
        item = BenchmarkItem(image_id=catalog.images.ids(limit=1)[0], stratum="hands", settled=True)
        draft = catalog.benchmarks.draft("first", [item], "test")
        catalog.commit()
    pair.split()
    assert pair.command("benchmarks", "freeze", draft.id) == 0
    pair.desk("curator", f"/api/curate/benchmarks/{draft.id}/freeze", {})
    here, there = pair.both(lambda catalog: bare(catalog.benchmarks.get(draft.id)))
    assert here == there and here["state"] == "frozen" and here["digest"]
    here, there = pair.events("benchmark.freeze")
    assert here == there and len(here) == 1


def test_freezing_known_truth_gives_what_drafting_and_settling_gives(pair: Pair) -> None:
    known_images(pair.workspace)
    pair.split()
    assert pair.command("benchmarks", "freeze") == 0
    wanted = {"per_stratum": 1000, "opinions": 1, "real": 0}
    workspace = open_workspace(pair.folder / "desk")
    with workspace.catalog() as catalog:  # what is not reserved would be drafted as well
        for image in catalog.images.find(split="train"):
            catalog.labels.submit(
                Label(image_id=image.id, author="curator", height=SIDE, width=SIDE, clean=True)
            )
        catalog.commit()
    workspace.close()
    path = "/api/curate/benchmarks"
    drafted = pair.desk("curator", path, wanted)
    assert pair.desk("curator", f"{path}/{drafted['id']}/settle-agreed", {}) == {"settled": 4}
    pair.desk("curator", f"{path}/{drafted['id']}/freeze", {})

    def frozen(catalog: Any) -> tuple[Any, ...]:
        found = catalog.benchmarks.newest_frozen()
        items = catalog.benchmarks.items(found.id)
        return found.digest, found.version, sorted((one.image_id, one.target, one.settled) for one in items)

    here, there = pair.both(frozen)
    assert here == there and len(here[2]) == 4
    here, there = pair.events("benchmark.draft", "benchmark.freeze")
    assert here == there and len(here) == 2


def candidate(workspace: Workspace) -> None:
    """A detector that is worse on validation than the champion, and a frozen benchmark."""
    with workspace.catalog() as catalog:
        catalog.detectors.record_metrics("d1", {"validation": {"mse": 0.03}})
        figures = {"validation": {"mse": 0.04}}
        catalog.detectors.add(DetectorVersion(id="d2", name="round 1", checkpoint="1" * 64, metrics=figures))
        item = BenchmarkItem(image_id=catalog.images.ids(limit=1)[0], stratum="hands", settled=True)
        catalog.benchmarks.freeze(catalog.benchmarks.draft("first", [item], "test").id, "test")
        catalog.commit()


def roles(catalog: Any) -> list[tuple[Any, ...]]:
    return [(one.id, one.role, catalog.detectors.champion_id()) for one in catalog.detectors.list()]


def test_promoting_and_rolling_back(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    candidate(pair.workspace)
    pair.split()
    assert pair.command("detectors", "--promote", "d2") == 1
    assert "give a reason to promote this detector" in capsys.readouterr().err
    reason = "it finds watermarks"
    assert pair.command("detectors", "--promote", "d2", "--reason", reason) == 0
    pair.desk("engineer", "/api/train/promote", {"detector": "d2", "champion": "d1", "reason": reason})
    here, there = pair.both(roles)
    assert here == there and {row[2] for row in here} == {"d2"}
    here, there = pair.events("detector.promote", "detector.promote.overruled")
    assert here == there and len(here) == 2
    assert pair.command("detectors", "--roll-back") == 0
    pair.desk("engineer", "/api/train/rollback", {"champion": "d2"})
    here, there = pair.both(roles)
    assert here == there and {row[2] for row in here} == {"d1"}
    here, there = pair.events("detector.rollback")
    assert here == there and len(here) == 1
    assert pair.command("detectors", "--promote", "d2", "--roll-back") == 1
