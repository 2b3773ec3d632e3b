"""The client against a live server: images, label maps, the queue, models, refusals."""

import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image as Picture

from dataengine.records import Job, Snapshot
from pipelines.services.admin.tokens import create_token, revoke_token
from storage.workspace import Workspace
from tests.ui.conftest import SIDE, png
from ui.client import ApiError, Clinic, ClinicError, MaskRefused
from ui.client import images as client_images

Clients = Callable[..., Clinic]
PIECE = 2**16


def a_map(value: int = 1) -> np.ndarray:
    label_map = np.zeros((SIDE, SIDE), np.uint8)
    label_map[3:9, 4:20] = value
    return label_map


def test_images_come_page_by_page(clinic: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    curator = clinic("curator")
    everything = [image.id for image in curator.images.list()]
    assert len(everything) == len(set(everything)) >= 8
    monkeypatch.setattr(client_images, "PAGE", 3)
    assert [image.id for image in curator.images.list()] == everything
    assert [image.id for image in curator.images.list(limit=4)] == everything[:4]
    assert {image.id for image in curator.images.list(ids=everything[:2])} == set(everything[:2])
    with pytest.raises(ApiError, match="at most 1,000 ids"):
        curator.images.count(ids=["x"] * 1001)
    assert curator.images.count(ids=[f"{number:024x}" for number in range(1000)]).count == 0
    hands = list(curator.images.search("hand", category="hands"))
    assert {image.category for image in hands} == {"hands"} and len(hands) == 4
    count = curator.images.count(category="hands")
    assert (count.count, count.more) == (4, False) and count.total == len(everything)
    assert all(image.max and image.max >= 0.6 for image in curator.images.list(low=0.6))


def test_pixels_and_maps(clinic: Clients, tmp_path: Path) -> None:
    curator = clinic("curator")
    image = next(curator.images.list(category="hands", sort="max"))
    assert image.map and image.raw["map"] is True
    detail = curator.images.get(image.id)
    assert detail.predictions[0]["max"] == image.max and (detail.height, detail.width) == (SIDE, SIDE)
    assert Picture.open(io.BytesIO(curator.images.pixels(image.id))).size == (SIDE, SIDE)
    saved = curator.images.save(image.id, tmp_path / "image.png")
    assert saved.read_bytes() == curator.images.pixels(image.id)
    found = curator.images.map(image.id)
    assert found.dtype == np.uint8 and found.shape == (SIDE, SIDE) and found.flags.writeable
    assert found.max() == round(255 * (image.max or 0))
    with pytest.raises(ApiError, match="has no map by detector 'none'"):
        curator.images.map(image.id, "none")


def test_tags(clinic: Clients) -> None:
    curator = clinic("curator")
    ids = [image.id for image in curator.images.list(limit=2)]
    assert curator.images.tag(add=["client"], ids=ids) == 2
    assert {image.id for image in curator.images.list(tag="client")} == set(ids)
    assert curator.images.tag(remove=["client"], tag="client") == 2
    with pytest.raises(ApiError, match="name the images"):
        curator.images.tag(add=["everything"])


def test_the_queue_and_label_maps(clinic: Clients) -> None:
    annotator, curator = clinic("annotator"), clinic("curator")
    task = annotator.queue.next()
    assert task is not None and task.classes and task.lease
    other = annotator.queue.next(besides=[task.image])
    assert other is not None and other.image != task.image
    assert annotator.queue.renew(task, other) == []
    annotator.queue.release(other)
    for wrong in (a_map()[1:], a_map(99), a_map().astype(np.int64)):
        with pytest.raises(MaskRefused):
            annotator.queue.submit(task, wrong)
    assert annotator.queue.submit(task, a_map(), seconds=3.5, key="once") == 1
    assert annotator.queue.submit(task, a_map(), seconds=3.5, key="once") == 1, "the same answer counts once"
    with pytest.raises(ApiError) as conflict:
        annotator.queue.submit(task, a_map(2))
    assert conflict.value.status == 409
    assert (curator.labels.get(task.image, "annotator") == a_map()).all()
    assert (curator.labels.get(task.image) == a_map()).all()
    assert annotator.labels.put(task.image, a_map(2)) == 2
    assert (curator.labels.get(task.image, "annotator", 2) == a_map(2)).all()
    assert (curator.labels.get(task.image, "annotator", 1) == a_map()).all()
    assert annotator.labels.put(task.image, None) == 3 and not curator.labels.get(task.image).any()
    labels = curator.images.get(task.image).labels
    assert {(one["author"], one["revision"]) for one in labels} == {("annotator", at) for at in (1, 2, 3)}


def test_a_curator_labels_any_image_and_an_annotator_only_what_waits(clinic: Clients) -> None:
    curator, annotator = clinic("curator"), clinic("annotator")
    image = next(curator.images.list(sort="oldest", category="mugs"))
    assert curator.labels.put(image.id, a_map(), note="by a program") == 1
    free = next(one for one in curator.images.list() if not one.labelled and one.id != image.id)
    before = annotator.queue.next()
    with pytest.raises(ApiError, match="does not wait for this account; ask a curator"):
        annotator.labels.put("0" * 24, a_map())
    with pytest.raises(ApiError, match="there is no image '0000"):
        curator.labels.put("0" * 24, a_map())
    if before is not None:
        annotator.queue.release(before)
    assert curator.labels.put(free.id, None) == 1


def test_images_are_sent_to_people(clinic: Clients) -> None:
    curator = clinic("curator")
    waiting = {image.id for image in curator.images.list(state="waiting")}
    sent = curator.queue.send(ids=[image.id for image in curator.images.list()])
    assert sent.selected >= 8 and sent.sent + sent.left_out == sent.selected
    assert {image.id for image in curator.images.list(state="waiting")} >= waiting
    assert curator.queue.send(category="hands").sent == 0, "they wait already"
    with pytest.raises(ApiError, match="nobody"):
        curator.queue.send(ids=[image.id for image in curator.images.list(limit=1)], people=["nobody"])
    with pytest.raises(ApiError, match="name the images"):
        curator.queue.send()
    assert curator.queue.send_categories({"hands": 0.99}) == 0
    assert {one.category for one in curator.images.categories()} >= {"hands", "mugs"}
    assert "watermark" in curator.labels.classes()


def test_models_and_training_sets(clinic: Clients, live: tuple[str, Workspace]) -> None:
    engineer = clinic("engineer")
    with live[1].catalog() as catalog:
        catalog.snapshots.add(Snapshot(id="s1", manifest="0" * 64, rows=3, composition={"true": 3}))
        catalog.commit()
    champion = engineer.detectors.champion()
    assert champion is not None and champion.id == "d1"
    assert "d1" in {one.id for one in engineer.detectors.list()}
    assert engineer.detectors.compare("d1").champion == {"id": "d1", "name": "first doctor"}
    assert {one.id: one.parent for one in engineer.generators.list()} == {"base": None, "treated": "base"}
    assert engineer.generators.treatments() == ["t1"]
    treated = engineer.generators.treatment("t1")
    assert treated.judged["mean_confidence"]["ratio"] == 0.41 and treated.pairs
    assert [one.composition for one in engineer.snapshots.list()] == [{"true": 3}]
    assert engineer.snapshots.get("s1").rows == 3
    assert list(engineer.studies.list()) == [] and "recipe cpu-smoke" in engineer.training.presets()
    for name, kind in (("nope", engineer.training), ("nope", engineer.treating)):
        with pytest.raises(ApiError, match=r"no preset 'nope'; presets are .*cpu-smoke"):
            kind.start(*(("base", name) if kind is engineer.treating else (name,)))  # type: ignore[attr-defined]
    with pytest.raises(ApiError, match="name either prompts or categories"):
        engineer.treating.start("base", prompts=["a hand"], categories=["hand"])
    with pytest.raises(ApiError, match=r"training\.steps is -1"):
        engineer.training.start("cpu-smoke", settings={"training": {"steps": -1}})


def test_jobs_are_waited_for(clinic: Clients, live: tuple[str, Workspace]) -> None:
    curator, seen = clinic("curator"), []
    job = curator.images.diagnose(category="hands")
    assert (job.state, job.kind, job.worker) == ("queued", "diagnose", False)
    with pytest.raises(ApiError, match="still queued after 0 seconds and no worker is running"):
        curator.jobs.wait(job.id, timeout=0, poll=0.01, report=seen.append)
    assert curator.jobs.cancel(job.id) == "cancelled"
    with pytest.raises(ApiError, match="is cancelled"):
        curator.jobs.wait(job.id, poll=0.01)
    with live[1].catalog() as catalog:
        catalog.jobs.add(
            Job(id="j-done", kind="diagnose", state="succeeded", progress=1.0, result={"new": 3})
        )
        catalog.commit()
    assert curator.jobs.wait("j-done", report=seen.append).result == {"new": 3}
    assert [one.state for one in seen] == ["succeeded"]


def test_a_role_does_not_suffice(clinic: Clients) -> None:
    with pytest.raises(ApiError, match="needs an API token with the engineer or admin role") as refused:
        clinic("annotator").detectors.list()
    assert refused.value.status == 403 and isinstance(refused.value, ClinicError)


def test_tokens_that_do_not_suffice(live: tuple[str, Workspace], token_of: Callable[..., str]) -> None:
    right = token_of("curator")
    expired = create_token(live[1], "curator", "revoked soon", ["curator"], 1, "test")
    revoke_token(live[1], expired[1].id, "test")
    foreign = "clinic_00000000_00000000_" + right[-43:]
    for token, sentence in (
        ("", "sign in first"),
        ("clinic_x", "malformed"),
        (right[:-1] + ("A" if right[-1] != "A" else "B"), "unknown"),
        (foreign, "another clinic's"),
        (expired[0], "revoked"),
    ):
        with Clinic(live[0], token) as clinic, pytest.raises(ApiError, match=sentence) as refused:
            clinic.whoami()
        assert refused.value.status == 401


def test_a_client_of_another_version_is_told_so(
    live: tuple[str, Workspace], clinic: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, older in (("0", "client"), ("2", "server")):
        client = clinic("curator")
        client._transport._headers["Clinic-Version"] = version
        with pytest.raises(
            ApiError, match=f"speaks version {version} .* version 1; update the {older}"
        ) as told:
            client.whoami()
        assert told.value.status == 400
    client._transport._headers["Clinic-Version"] = "new"
    with pytest.raises(ApiError, match="is no version of the API"):
        client.whoami()
    answer = httpx.get(f"{live[0]}/api/v2/session", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 404 and answer.json()["error"].endswith("update the server")
    assert answer.headers["Clinic-Version"] == "1"
    monkeypatch.setattr("ui.web.versions.API_VERSION", 2)
    with pytest.raises(ApiError, match=r"version 1 of the API and http.* version 2; update this client"):
        clinic("curator").whoami()


def test_files_and_folders_are_uploaded(clinic: Clients, tmp_path: Path) -> None:
    curator, told = clinic("curator"), []
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    bodies = [png(60 + number) for number in range(3)]
    for number, body in enumerate(bodies):
        (folder / "inner" / f"{number}.png").write_bytes(body)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(bodies[0])
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = curator.uploads.images(
        folder, tmp_path / "broken.png", licence="CC0", report=lambda *at: told.append(at)
    )
    assert (found.added, found.duplicates, found.refusals) == (3, 0, 1)
    assert "broken.png" in str(found.refused) and told[-1][0] == told[-1][1] == sum(map(len, bodies)) + 8
    assert curator.uploads.images(folder).duplicates == 3
    for paths, sentence in (
        ((tmp_path / "none",), "there is no file or folder"),
        ((), "there is no image to send"),
        ((folder / "inner" / "0.png", folder / "inner" / "0.png"), "have the same name"),
    ):
        with pytest.raises(ApiError, match=sentence):
            curator.uploads.images(*paths)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.importing.routes.UPLOAD_PIECE", PIECE)


def noise(seed: int) -> bytes:
    """An image that takes two pieces."""
    body = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(body, "PNG")
    return body.getvalue()


class CutAfter:
    """Lets so many pieces through, then the connection breaks."""

    def __init__(self, clinic: Clinic, pieces: int) -> None:
        self.transport, self.left, self.sent = clinic._transport, pieces, []  # type: ignore[var-annotated]
        self.request = self.transport.request

    def __call__(self, method: str, path: str, **keywords: object) -> object:
        if (method, path) == ("POST", "/import/piece"):
            if self.left == 0:
                raise ApiError("the connection broke")
            self.left -= 1
            self.sent.append(len(keywords["content"]))  # type: ignore[arg-type]
        return self.request(method, path, **keywords)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_pieces")
def test_an_upload_goes_on_where_it_was_interrupted(
    clinic: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator = clinic("curator")
    small = tmp_path / "small.png"
    small.write_bytes(png(70))
    large = tmp_path / "large.png"
    large.write_bytes(noise(0))
    size, piece = large.stat().st_size, PIECE
    assert piece < size < 2 * piece
    cut = CutAfter(curator, 2)
    monkeypatch.setattr(curator._transport, "request", cut)
    with pytest.raises(ApiError, match="the connection broke"):
        curator.uploads.images(large, small, source="imported")
    assert cut.sent == [piece, size - piece]
    cut.left, cut.sent = 99, []
    found = curator.uploads.images(large, small, source="imported")
    assert cut.sent == [small.stat().st_size], "only what had not arrived"
    assert found.added == 2


@pytest.mark.usefixtures("small_pieces")
def test_a_half_sent_file_goes_on_and_one_that_changed_begins_again(
    clinic: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator, piece = clinic("curator"), PIECE
    first, large = tmp_path / "first.png", tmp_path / "large.png"
    first.write_bytes(png(71))
    large.write_bytes(noise(1))
    cut = CutAfter(curator, 2)
    monkeypatch.setattr(curator._transport, "request", cut)
    with pytest.raises(ApiError, match="the connection broke"):
        curator.uploads.images(first, large)
    assert cut.sent == [first.stat().st_size, piece]
    cut.left, cut.sent = 1, []
    with pytest.raises(ApiError, match="the connection broke"):
        large.write_bytes(noise(2))
        curator.uploads.images(first, large)
    assert cut.sent == [large.stat().st_size - piece], "sent on from there, and found to have changed"
    cut.left, cut.sent = 99, []
    assert curator.uploads.images(first, large).added == 2
