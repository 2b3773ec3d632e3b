"""Drafts are kept for those who lease the image or may change their own answer, and for nobody else."""

from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from dataengine.records import Review, now
from pipelines.services import annotation
from storage import tables
from storage.workspace import Workspace
from tests.ui.annotate.test_more import taken
from tests.ui.annotate.test_routes import answer, packed, painted

Clients = Callable[..., TestClient]


def save(client: TestClient, image: str, value: int = 2) -> tuple[int, str]:
    body = {"image": image, "label_map": packed(painted(value)), "seconds": 1.0}
    response = client.post("/api/annotate/draft", json=body)
    return response.status_code, response.json().get("error", "")


def drafts(workspace: Workspace) -> list[tuple[str, str]]:
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.connection.execute(select(tables.drafts.c.image_id, tables.drafts.c.author))
        return [(image, author) for image, author in found]


def test_nobody_saves_a_draft_of_an_image_they_do_not_hold(client_of: Clients, workspace: Workspace) -> None:
    first, second = client_of("annotator"), client_of("curator")
    image = taken(first)["image"]["id"]
    status, error = save(second, image)
    assert status == 409 and "not leased to you" in error and "take the next image" in error
    assert save(first, image)[0] == 200
    assert drafts(workspace) == [(image, "annotator")]


def test_a_draft_after_a_pause_is_kept_though_somebody_else_leases_the_image(
    client_of: Clients, workspace: Workspace
) -> None:
    first, second = client_of("annotator"), client_of("curator")
    image = taken(first)["image"]["id"]
    with workspace.catalog() as catalog:
        catalog.connection.execute(update(tables.leases).values(expires=now() - 3600))
        catalog.commit()
    assert save(first, image)[0] == 200
    assert taken(second, prefer=image)["image"]["id"] == image
    assert save(first, image, 3)[0] == 200 and save(second, image)[0] == 200
    assert sorted(drafts(workspace)) == [(image, "annotator"), (image, "curator")]


def test_a_draft_after_skipping_is_refused(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = taken(client)
    client.post("/api/annotate/skip", json={"lease": task["lease"]}).raise_for_status()
    assert save(client, task["image"]["id"])[0] == 409 and drafts(workspace) == []


def test_a_draft_of_an_own_answer_is_kept_until_a_curator_accepts_it(
    client_of: Clients, workspace: Workspace
) -> None:
    client = client_of("annotator")
    task = taken(client)
    client.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    image = task["image"]["id"]
    assert save(client, image)[0] == 200
    verdict = Review(image_id=image, author="annotator", revision=1, reviewer="curator", verdict="accepted")
    with workspace.catalog() as catalog:
        catalog.reviews.add(verdict)
        catalog.commit()
    status, error = save(client, image, 3)
    assert status == 409 and "accepted" in error


def test_one_person_keeps_a_bounded_number_of_drafts(
    client_of: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation, "MAX_DRAFTS", 1)
    client = client_of("annotator")
    first = taken(client)["image"]["id"]
    second = taken(client, besides=[first])["image"]["id"]
    assert save(client, first)[0] == 200
    assert save(client, first, 3)[0] == 200, "the same draft again"
    status, error = save(client, second)
    assert status == 409 and "1 unfinished drafts" in error


def test_a_refused_draft_is_not_decoded(client_of: Clients) -> None:
    client, other = client_of("annotator"), client_of("curator")
    image = taken(other)["image"]["id"]
    body = {"image": image, "label_map": packed(np.ones((8, 8), np.uint8))}
    assert client.post("/api/annotate/draft", json=body).status_code == 409
