"""Creating, listing and ending API tokens."""

import pytest

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import GeneratorVersion, Guest, Study
from pipelines.services.admin import audit, tokens, users
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.queries.audit import AuditFilter
from storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: object) -> Workspace:
    made = create_workspace(f"{tmp_path}/w")
    with made.catalog() as catalog:
        create_user(catalog, "ada", "a long password", ["admin"], "test")
        create_user(catalog, "ben", "a long password", ["annotator", "rater"], "test")
        catalog.commit()
    return made


def create(workspace: Workspace, name: str = "nightly", *roles: str, days: tokens.Days = 90) -> str:
    return tokens.create_token(workspace, "ben", name, roles or ["annotator"], days, "ada")[0]


def test_a_token_lasts_ninety_days_or_what_was_asked_for(workspace: Workspace) -> None:
    for name, days in (("a", tokens.DEFAULT_DAYS), ("b", 1), ("c", "never")):
        create(workspace, name, days=days)  # type: ignore[arg-type]
    lasts = {one.name: one.expires and one.expires - one.created for one in tokens.list_tokens(workspace)}
    assert lasts == {"a": 90 * 86400.0, "b": 86400.0, "c": None}


@pytest.mark.parametrize(
    ("name", "roles", "days", "words"),
    [
        ("", ["annotator"], 90, "1 to 64 visible characters"),
        ("x" * 65, ["annotator"], 90, "1 to 64 visible characters"),
        ("a\x00b", ["annotator"], 90, "visible characters"),
        ("ok", [], 90, "one or more of its owner's roles"),
        ("ok", ["admin"], 90, "ben has annotator, rater"),
        ("ok", ["annotator", "king"], 90, "ben has annotator, rater"),
        ("ok", ["annotator"], 0, '1 to 3,650 days, or "never"'),
        ("ok", ["annotator"], 10**6, "1 to 3,650 days"),
    ],
)
def test_what_no_token_can_be_is_refused(
    workspace: Workspace, name: str, roles: list[str], days: int, words: str
) -> None:
    with pytest.raises(InputRefused, match=words):
        tokens.create_token(workspace, "ben", name, roles, days, "ada")
    assert not tokens.list_tokens(workspace)


def test_an_admin_who_may_do_everything_may_give_any_role(workspace: Workspace) -> None:
    text, token = tokens.create_token(workspace, "ada", "bot", ["curator", "rater"], 1, "ada")
    assert token.roles == tokens.holder_of(workspace, text).roles == ("curator", "rater")
    users.add_user(workspace, "eve", "a long password", ["admin"], "test", keep_admin=False)
    users.set_roles(workspace, "ada", ["rater"], "eve")
    assert tokens.holder_of(workspace, text).roles == ("rater",)


def test_names_are_unique_among_valid_tokens(workspace: Workspace) -> None:
    create(workspace, "nightly")
    with pytest.raises(Conflict, match="called 'Nightly' already"):
        create(workspace, "Nightly")
    tokens.revoke_token(workspace, tokens.list_tokens(workspace)[0].id, "ada")
    create(workspace, "nightly")


def test_a_person_has_a_bounded_number(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 2)
    create(workspace, "a")
    create(workspace, "b")
    with pytest.raises(Conflict, match="has 2 API tokens; revoke one first"):
        create(workspace, "c")


def test_guests_strangers_and_deactivated_people_get_none(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="no user 'nobody'"):
        tokens.create_token(workspace, "nobody", "x", ["rater"], 1, "ada")
    users.set_active(workspace, "ben", False, "ada")
    with pytest.raises(Conflict, match="deactivated"):
        create(workspace)
    users.set_active(workspace, "ben", True, "ada")
    with workspace.catalog() as catalog:
        for id in ("g", "h"):
            catalog.generators.add(GeneratorVersion(id=id, name=id, location=id))
        catalog.studies.add(Study(id="s", name="s", before_id="g", after_id="h"))
        catalog.guests.add(Guest(name="ben", study_id="s"))
        catalog.commit()
    with pytest.raises(Conflict, match="guests have no API tokens"):
        create(workspace)


def test_revoking_names_what_is_wrong(workspace: Workspace) -> None:
    create(workspace)
    (token,) = tokens.list_tokens(workspace)
    for id, person in (("00000000", None), (token.id, "ada")):
        with pytest.raises(NotFound, match="no API token"):
            tokens.revoke_token(workspace, id, "ada", person)
    tokens.revoke_token(workspace, token.id, "ben", "ben")
    with pytest.raises(Conflict, match=r"was revoked on 20.* already"):
        tokens.revoke_token(workspace, token.id, "ben")


def test_both_ends_of_a_token_are_audited(workspace: Workspace) -> None:
    text = create(workspace)
    (token,) = tokens.list_tokens(workspace)
    tokens.revoke_token(workspace, token.id, "ben")
    rows, _ = audit.find_events(workspace, AuditFilter(topic="token"))
    assert [(row.who, row.what, row.subject) for row in rows] == [
        ("ben", "revoked the API token", "nightly"),
        ("ada", "created the API token", "nightly"),
    ]
    assert "person: ben, roles: annotator, days: 90" in rows[1].details
    assert text[-43:] not in audit.audit_csv(workspace, AuditFilter())


def test_what_ended_long_ago_is_forgotten(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    create(workspace, "old", days=1)
    late = tokens.now() + 86400 * (tokens.KEPT_DAYS + 2)
    monkeypatch.setattr(tokens, "now", lambda: late)
    create(workspace, "new")
    assert [one.name for one in tokens.list_tokens(workspace)] == ["new"]


def test_an_erased_person_leaves_no_token(workspace: Workspace) -> None:
    from pipelines.services.admin.maintenance import erase_person

    create(workspace, "of ben")
    tokens.create_token(workspace, "ada", "for ben", ["rater"], 1, "ada")
    erase_person(workspace, "ben", "ada")
    (left,) = tokens.list_tokens(workspace)
    assert left.user == "ada" and "ben" not in left.name
