"""Participants of Prolific and the like: an id in the address, a completion code at the end, nothing else."""

from collections.abc import Callable

from fastapi.testclient import TestClient

from storage.workspace import Workspace
from tests.ui.study.test_raters import TWO
from tests.ui.study.test_routes import judge_all, opened, study_of

Clients = Callable[..., TestClient]
CODED = TWO | {"checks": 1, "code": "C1ABC-99"}


def invited(client_of: Clients, study_id: str, places: int = 5) -> str:
    """An invitation's secret."""
    wanted = {"study": study_id, "hours": 1, "places": places}
    path: str = client_of("admin").post("/api/invitations", json=wanted).json()["path"]
    return path.partition("=")[2]


def test_a_participant_ends_with_the_code(client_of: Clients, workspace: Workspace) -> None:
    engineer, stranger = client_of("engineer"), client_of()
    study = study_of(workspace, opened(engineer, design=CODED))
    token = invited(client_of, study.id)
    page = stranger.get("/join", params={"invitation": token, "participant": "5f3a_B-c"})
    assert page.status_code == 200 and 'value="5f3a_B-c"' in page.text and "C1ABC" not in page.text
    joined = stranger.post("/join", data={"invitation": token, "participant": "5f3a_B-c"})
    assert joined.status_code == 303
    session = stranger.get("/api/session").json()
    name, stranger.headers["X-Clinic-CSRF"] = session["name"], session["csrf"]
    assert name == f"rater-5f3a_B-c-{study.id[:6]}"
    url = f"/api/study/{study.id}/completion"
    assert stranger.get(url).json() == {"finished": False, "code": ""}
    assert judge_all(stranger, study, name, lambda pair, question: "after") == 5
    assert stranger.get(url).json() == {"finished": True, "code": "C1ABC-99"}
    client_of("rater").get(f"/api/study/{study.id}/next")
    (row,) = engineer.get(f"/api/studies/{study.id}").json()["results"]["raters"]
    assert (row["rater"], row["code"]) == (name, "C1ABC-99")
    again = client_of().post("/join", data={"invitation": token, "participant": "5f3a_B-c"})
    assert again.status_code == 403 and "joined already" in again.text
    with workspace.catalog(read_only=True) as catalog:
        (invitation,) = catalog.invitations.of_study(study.id)
    assert invitation.taken == 1, "a refused participant takes no place"


IDS = ["x" * 10_000, "x" * 49, "=1+1", "<b>", "a b", "{{%PROLIFIC_PID%}}", "ä", "a\n"]


def test_an_invalid_participant_id_is_refused(client_of: Clients, workspace: Workspace) -> None:
    token = invited(client_of, opened(client_of("engineer"), design=CODED))
    stranger = client_of()
    for id in IDS:
        shown = stranger.get("/join", params={"invitation": token, "participant": id})
        assert shown.status_code == 422 and "participant id" in shown.text, id
        assert len(shown.content) < 9_000, "the id is not repeated"
        joined = stranger.post("/join", data={"invitation": token, "participant": id})
        assert joined.status_code == 422 and "set-cookie" not in joined.headers, id


def test_a_code_that_is_none_is_refused(client_of: Clients) -> None:
    engineer = client_of("engineer")
    for code in ("x" * 65, "=1+1", "a b", "<script>"):
        wanted = {"name": "n", "before": "base", "after": "treated", "design": CODED | {"code": code}}
        assert engineer.post("/api/studies", json=wanted).status_code == 422, code


def test_whoever_judged_nothing_gets_no_code(client_of: Clients, workspace: Workspace) -> None:
    study = study_of(workspace, opened(client_of("engineer"), design=CODED | {"raters_a_pair": 1}))
    judge_all(client_of("admin"), study, "admin", lambda pair, question: "after")
    late = client_of("rater").get(f"/api/study/{study.id}/completion").json()
    assert late == {"finished": False, "code": ""}


def test_a_guest_sees_nothing_but_the_study(client_of: Clients, workspace: Workspace) -> None:
    """Desks 1.12 and 5.3: home, desks and the API tell a guest nothing of models, treatments or rounds."""
    study = study_of(workspace, opened(client_of("engineer"), design=CODED))
    token, guest = invited(client_of, study.id), client_of()
    guest.post("/join", data={"invitation": token})
    for path in ("/annotate", "/curate", "/train", "/treat", "/rounds", "/admin"):
        assert guest.get(path).status_code in (303, 403), path
    told = ["tiny flux", "treated", "first doctor", "champion", "detector", "treatment"]
    for path in ("/", "/api/home", "/api/study", "/study"):
        answer = guest.get(path, follow_redirects=True)
        assert not [word for word in told if word in answer.text], (path, answer.text[:300])
    for path in (
        "/api/images",
        "/api/studies",
        "/api/detectors",
        "/api/rounds",
        "/api/jobs",
        "/api/treatments",
    ):
        assert guest.get(path).status_code in (403, 404), path
