"""Blind studies over HTTP: figures against hand-computed values, what raters can learn, who may join."""

import csv
import io
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from dataengine.csv_files import escape_formula
from dataengine.records import Study, now
from dataengine.statistics import wilson
from pipelines.services.studies.blind_images import shuffle_tiles
from pipelines.services.studies.plans import plan_of
from storage.maintenance.erase import erase_images
from storage.workspace import Workspace
from tests.ui.conftest import PASSWORD, sign_in

Clients = Callable[..., TestClient]

WANTED = {
    "name": "first look",
    "before": "base",
    "after": "treated",
    "design": {"questions": ["artifacts", "alignment"], "scale": "score", "raters_a_pair": 3, "checks": 1},
}


def opened(engineer: TestClient, **more: Any) -> str:
    answer = engineer.post("/api/studies", json=WANTED | more)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def study_of(workspace: Workspace, study_id: str) -> Study:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.studies.get(study_id)


def judge_all(client: TestClient, study: Study, rater: str, choose: Callable[[int, str], str]) -> int:
    """Answer every pair that is offered; `choose(pair, question)` says before, after or tie."""
    count = 0
    while (answer := client.get(f"/api/study/{study.id}/next")).status_code == 200:
        shown = answer.json()
        showing = plan_of(study, rater).by_task[shown["task"]]
        sides = {"tie": "tie", showing.left: "left", showing.right: "right"}
        answers = {name: sides[choose(showing.pair, name)] for name in shown["questions"]}
        body = {"task": shown["task"], "answers": answers, "seconds": 2.0}
        kept = client.post(f"/api/study/{study.id}/answer", json=body)
        assert kept.status_code == 200 and kept.json()["new"] == len(answers)
        assert client.post(f"/api/study/{study.id}/answer", json=body).json()["new"] == 0
        count += 1
    assert answer.status_code == 204
    return count


SAID = {  # pair: what rater, engineer and admin say on artifacts; on alignment
    0: (("after", "after", "after"), ("tie", "tie", "tie")),
    1: (("after", "tie", "before"), ("after", "after", "after")),
    2: (("before", "before", "before"), ("after", "tie", "tie")),
    3: (("after", "after", "tie"), ("before", "tie", "tie")),
}


def test_three_raters_and_the_figures_by_hand(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer))
    assert len(study.pairs) == 4
    for place, rater in enumerate(("rater", "engineer", "admin")):

        def choose(pair: int, question: str, place: int = place) -> str:
            return SAID[pair][question == "alignment"][place] if pair < 4 else "after"

        assert judge_all(client_of(rater), study, rater, choose) == 5
    found = engineer.get(f"/api/studies/{study.id}").json()
    assert (found["complete"], found["raters"], found["votes"], found["share"]) == (4, 3, 24, 1.0)
    artifacts, alignment = found["results"]["questions"]
    assert (artifacts["after"], artifacts["before"], artifacts["ties"]) == (2, 1, 1)
    assert artifacts["win_rate"] == pytest.approx(2 / 3)
    assert artifacts["interval"] == pytest.approx(wilson(2, 3)) and artifacts["p_value"] == 1.0
    assert artifacts["mean_opinion"] == pytest.approx((1 + 0 - 1 + 2 / 3) / 4)
    assert (artifacts["improves"], artifacts["degrades"]) == (1, 1)
    assert alignment["mean_opinion"] == pytest.approx((0 + 1 + 1 / 3 - 1 / 3) / 4)
    lowest = [min(1, 0), min(0, 1), min(-1, 1 / 3), min(2 / 3, -1 / 3)]
    assert found["results"]["minimum"] == pytest.approx(sum(lowest) / 4)
    # Coincidences by hand: after-after 4, before-before 3, and one of each mixed pair but two of after-tie.
    o = np.array([[3, 0.5, 0.5], [0.5, 0, 1.5], [0.5, 1.5, 4]])
    n = o.sum(axis=1)
    expected = 1 - (n.sum() - 1) * (o.sum() - np.trace(o)) / (n.sum() ** 2 - (n**2).sum())
    assert artifacts["agreement"] == pytest.approx(expected)
    hands = next(one for one in found["results"]["categories"] if one["category"] == "hands")
    assert hands["questions"][0]["pairs"] == 2
    assert [one["checks"] for one in found["results"]["raters"]] == [[1, 1]] * 3


def test_the_tables_say_the_same(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer))
    judge_all(client_of("rater"), study, "rater", lambda pair, question: "after")
    answer = engineer.get(f"/api/studies/{study.id}/votes.csv")
    assert answer.headers["content-disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 10 and sum(int(row["counted"]) for row in rows) == 8
    assert {row["score"] for row in rows} == {"1"} and {row["check"] for row in rows} == {"0", "1"}
    figures = list(csv.DictReader(io.StringIO(engineer.get(f"/api/studies/{study.id}/results.csv").text)))
    assert {row["category"] for row in figures} == {"all", "hands", "mugs"} and figures[0][
        "win_rate"
    ] == "1.0"
    assert engineer.get(f"/api/studies/{study.id}/secrets.csv").status_code == 422
    assert (escape_formula("=1+1"), escape_formula(-1), escape_formula("a hand")) == ("'=1+1", -1, "a hand")


def test_whoever_fails_the_checks_does_not_count(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer))
    judge_all(client_of("rater"), study, "rater", lambda pair, question: "before")
    judge_all(client_of("admin"), study, "admin", lambda pair, question: "after")
    found = engineer.get(f"/api/studies/{study.id}").json()["results"]
    assert found["left_out"] == ["rater"] and found["questions"][0]["votes"] == 4
    assert found["questions"][0]["after"] == 4 and found["raters"][1]["checks"] == [0, 1]


def chunks(png: bytes) -> list[str]:
    """The chunk types of a PNG, in order."""
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append(png[at + 4 : at + 8].decode())
        at += 12 + length
    return found


def pixels_of(body: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(body)).convert("RGB"))


def test_nothing_a_rater_gets_tells_the_sides_apart(client_of: Clients, workspace: Workspace) -> None:
    study = study_of(workspace, opened(client_of("engineer")))
    rater = client_of("rater")
    names: dict[str, set[str]] = {}
    for person in ("rater", "admin"):
        client = client_of(person)
        shown = client.get(f"/api/study/{study.id}/next").json()
        names[person] = {shown["task"], shown["left"], shown["right"]}
        told = str(shown) + client.get("/api/study").text
        with workspace.catalog(read_only=True) as catalog:
            secrets = [
                *(id for pair in study.pairs for id in pair),
                "base",
                "treated",
                "flux",
                str(study.seed),
            ]
            secrets += [image.sha256 for image in catalog.images.find()]
        assert not [secret for secret in secrets if secret in told]
        left, right = (client.get(shown[side]) for side in ("left", "right"))
        headers = [{**one.headers, "x-request-id": "random"} for one in (left, right)]
        assert headers[0] == headers[1]
        assert left.headers["cache-control"] == "no-store" and "etag" not in left.headers
        assert left.headers["content-type"] == "image/png" and len(left.content) == len(right.content)
        for body in (left.content, right.content):
            assert set(chunks(body)) == {"IHDR", "IDAT", "paDd", "IEND"}
        showing = plan_of(study, person).by_task[shown["task"]]
        if showing.pair < len(study.pairs):
            with workspace.catalog(read_only=True) as catalog:
                images = dict(
                    zip(("before", "after"), catalog.images.get_many(study.pairs[showing.pair]), strict=True)
                )
            stored = {role: pixels_of(workspace.blobs.get(image.sha256)) for role, image in images.items()}
            assert (pixels_of(left.content) == stored[showing.left]).all()
            assert (pixels_of(right.content) == stored[showing.right]).all()
    assert not names["rater"] & names["admin"], "every rater has names of their own"
    theirs = next(iter(name for name in names["admin"] if "pictures" in name))
    assert rater.get(theirs).status_code == 404, "another rater's picture"
    assert rater.get(f"/api/images/{study.pairs[0][0]}/pixels").status_code == 403
    assert rater.get(f"/api/studies/{study.id}").status_code == 403


def test_order_and_sides_differ_by_rater_and_repeat(workspace: Workspace) -> None:
    pairs = tuple((f"a{n}", f"b{n}") for n in range(60))
    design = {"checks": 4}
    study = Study(id="s", name="s", before_id="g", after_id="h", pairs=pairs, seed=77, design=design)
    plans = [plan_of(study, f"rater-{n}") for n in range(20)]
    orders = [[one.pair for one in plan.showings] for plan in plans]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 20
    left = [one.left == "after" for plan in plans for one in plan.showings]
    assert 0.45 < np.mean(left) < 0.55
    by_pair = np.array(
        [[one.left == "after" for one in sorted(p.showings, key=lambda s: s.pair)] for p in plans]
    )
    assert (by_pair.mean(axis=0) > 0).all() and (by_pair.mean(axis=0) < 1).all()
    for order in orders:
        places = [place for place, pair in enumerate(order) if pair >= 60]
        assert len(places) == 4 and places[0] <= 13 and max(np.diff(places)) <= 16
    assert plan_of(replace(study, name="other"), "rater-3") == plans[3]


def test_a_check_is_the_same_picture_spoiled(client_of: Clients, workspace: Workspace) -> None:
    image = np.random.default_rng(0).integers(0, 255, (66, 70, 3), np.uint8)
    spoiled = shuffle_tiles(image)
    assert spoiled.shape == image.shape and (spoiled != image).mean() > 0.9
    tile = image[:16, :17]
    assert any(
        (spoiled[r : r + 16, c : c + 17] == tile).all() for r in range(0, 64, 16) for c in range(0, 68, 17)
    )


def test_enough_raters_end_a_pair_and_erased_pictures_are_skipped(
    client_of: Clients, workspace: Workspace
) -> None:
    design = WANTED["design"] | {"raters_a_pair": 1, "checks": 0}  # type: ignore[operator]
    study = study_of(workspace, opened(client_of("engineer"), design=design))
    erase_images(workspace, [study.pairs[0][1]], "admin")
    assert judge_all(client_of("rater"), study, "rater", lambda pair, question: "tie") == 3
    assert client_of("admin").get(f"/api/study/{study.id}/next").status_code == 204


def test_bad_requests_are_told_plainly(client_of: Clients, workspace: Workspace) -> None:
    engineer, rater = client_of("engineer"), client_of("rater")
    same = engineer.post("/api/studies", json=WANTED | {"after": "base"})
    assert same.status_code == 422 and "choose two" in same.text
    assert engineer.post("/api/studies", json=WANTED | {"categories": ["boats"]}).status_code == 422
    assert engineer.post("/api/studies", json=WANTED | {"before": "none"}).status_code == 404
    unaskable = engineer.post("/api/studies", json=WANTED | {"design": {"questions": ["safety"]}})
    assert unaskable.status_code == 422 and "attention checks need" in unaskable.text
    assert rater.post("/api/studies", json=WANTED).status_code == 403
    id = opened(engineer)
    shown = rater.get(f"/api/study/{id}/next").json()
    url = f"/api/study/{id}/answer"
    short = rater.post(url, json={"task": shown["task"], "answers": {"artifacts": "left"}})
    assert short.status_code == 422 and "alignment" in short.text
    both = {"artifacts": "left", "alignment": "tie"}
    assert rater.post(url, json={"task": "0" * 32, "answers": both}).status_code == 404
    assert engineer.post(f"/api/studies/{id}/close", json={}).json() == {"closed": True}
    assert engineer.post(f"/api/studies/{id}/close", json={}).status_code == 409
    late = rater.post(url, json={"task": shown["task"], "answers": both})
    assert late.status_code == 409 and "closed" in late.text


def test_an_invitation_lets_strangers_judge_one_study(client_of: Clients, workspace: Workspace) -> None:
    engineer, admin, stranger = client_of("engineer"), client_of("admin"), client_of()
    invited, other = opened(engineer), opened(engineer, name="another")
    wanted = {"study": invited, "hours": 1, "places": 1}
    assert engineer.post("/api/invitations", json=wanted).status_code == 403
    path = admin.post("/api/invitations", json=wanted).json()["path"]
    token = path.partition("=")[2]
    assert "first look" in stranger.get(path).text
    joined = stranger.post("/join", data={"invitation": token})
    assert joined.status_code == 303 and joined.headers["location"] == f"/study?view=judge&study={invited}"
    assert re.search(r"Max-Age=(3599|3600|359\d)", joined.headers["set-cookie"])
    session = stranger.get("/api/session").json()
    assert session["roles"] == ["rater"] and session["name"].startswith("rater-")
    assert [one["id"] for one in stranger.get("/api/study").json()["studies"]] == [invited]
    assert stranger.get(f"/api/study/{invited}/next").status_code == 200
    assert stranger.get(f"/api/study/{other}/next").status_code == 404
    assert stranger.get(f"/api/studies/{invited}").status_code == 403
    assert stranger.get(path).headers["location"] == "/study", "no second account for one browser"
    assert "used up" in client_of().get(path).text and client_of().get(path).status_code == 403
    admin.post(f"/api/studies/{invited}/close", json={})
    assert stranger.get("/api/study").status_code == 401, "the account ends with the study"


def test_invitations_expire_and_can_be_ended(
    client_of: Clients, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = client_of("admin")
    study = opened(client_of("engineer"))
    path = admin.post("/api/invitations", json={"study": study, "hours": 1, "places": 5}).json()["path"]
    monkeypatch.setattr("ui.study.invitations.now", lambda: now() + 3601)
    assert client_of().get(path).status_code == 403
    assert client_of().post("/join", data={"invitation": path.partition("=")[2]}).status_code == 403
    monkeypatch.undo()
    assert client_of().get(path).status_code == 200
    assert admin.post("/api/invitations/end", json={"study": study}).json() == {"ended": 1}
    assert client_of().get(path).status_code == 403
    assert client_of().get("/join?invitation=guess").status_code == 403
    with workspace.catalog(read_only=True) as catalog:
        actions = [event.action for event in catalog.audit.list()]
        stored = [one.token_hash for one in catalog.invitations.of_study(study)]
    assert {"invitation.create", "invitation.end", "study.open"} <= set(actions)
    assert path.partition("=")[2] not in stored, "only the token's hash is kept"
    assert sign_in(client_of(), "rater", PASSWORD).get("/api/study").status_code == 200
