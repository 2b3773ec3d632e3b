"""Accounts on both databases: hashes, sessions, roles."""

from dataclasses import replace

import pytest

from dataengine.errors import AccessDenied, Conflict, InputRefused, NotFound
from dataengine.records import User, now
from storage import accounts
from storage.catalog import Catalog
from tests.storage.test_passwords import former_hash

PASSWORD = "correct horse battery"


@pytest.fixture
def anna(catalog: Catalog) -> User:
    return accounts.create_user(catalog, "anna", PASSWORD, ["rater", "annotator"], actor="root")


def test_create_user(catalog: Catalog, anna: User) -> None:
    assert catalog.users.get("anna") == anna
    assert anna.roles == ("annotator", "rater")
    assert PASSWORD not in str(catalog.users.password_hash("anna"))
    assert [event.action for event in catalog.audit.list(actor="root")] == ["user.create"]
    with pytest.raises(Conflict, match="user 'anna' already exists"):
        accounts.create_user(catalog, "anna", PASSWORD, ["admin"], actor="root")
    assert catalog.users.get("anna").roles == anna.roles


@pytest.mark.parametrize(
    ("name", "password", "roles"),
    [
        ("", PASSWORD, ["admin"]),
        ("-x", PASSWORD, ["admin"]),
        ("a b", PASSWORD, ["admin"]),
        ("bob", "short", ["admin"]),
        ("bob", PASSWORD, []),
        ("bob", PASSWORD, ["king"]),
    ],
)
def test_bad_accounts_are_refused(catalog: Catalog, name: str, password: str, roles: list[str]) -> None:
    with pytest.raises(InputRefused):
        accounts.create_user(catalog, name, password, roles, actor="root")
    assert catalog.users.count() == 0


def test_session_from_sign_in_to_sign_out(catalog: Catalog, anna: User) -> None:
    token, session = accounts.sign_in(catalog, "anna", PASSWORD)
    assert token != session.token_hash and session.csrf
    assert accounts.session_of(catalog, token) == (session, replace(anna, seen=session.created))
    assert accounts.session_of(catalog, token + "x") is None
    assert accounts.sign_out(catalog, token)
    assert accounts.session_of(catalog, token) is None
    assert not accounts.sign_out(catalog, token)


def test_sessions_end_in_time(catalog: Catalog, anna: User) -> None:
    token, session = accounts.sign_in(catalog, "anna", PASSWORD, seconds=-1)
    assert accounts.session_of(catalog, token) is None
    accounts.sign_in(catalog, "anna", PASSWORD)
    assert catalog.sessions.find(session.token_hash) is None, "expired sessions are swept at the next sign-in"


@pytest.mark.parametrize("change", ["password", "closed", "removed"])
def test_changes_to_the_account_end_its_sessions(catalog: Catalog, anna: User, change: str) -> None:
    token, _ = accounts.sign_in(catalog, "anna", PASSWORD)
    if change == "password":
        accounts.set_password(catalog, "anna", "another password", actor="root")
    elif change == "closed":
        accounts.set_active(catalog, "anna", False, actor="root")
    else:
        accounts.remove_user(catalog, "anna", actor="root")
    assert accounts.session_of(catalog, token) is None
    with pytest.raises(AccessDenied):
        accounts.sign_in(catalog, "anna", PASSWORD)


def test_roles_change_in_a_live_session(catalog: Catalog, anna: User) -> None:
    token, _ = accounts.sign_in(catalog, "anna", PASSWORD)
    accounts.set_roles(catalog, "anna", ["engineer"], actor="root")
    found = accounts.session_of(catalog, token)
    assert found is not None and found[1].roles == ("engineer",)


def test_refusals_are_alike_and_lock_nobody_out(catalog: Catalog, anna: User) -> None:
    words = set()
    for name in ("anna", "nobody"):
        for _ in range(6):
            with pytest.raises(AccessDenied) as refused:
                accounts.sign_in(catalog, name, "wrong password")
            words.add(str(refused.value))
    assert len(words) == 1
    accounts.sign_in(catalog, "anna", PASSWORD)


def test_a_hash_of_an_earlier_version_is_replaced_at_sign_in(catalog: Catalog, anna: User) -> None:
    former = former_hash(PASSWORD)
    catalog.users.set_password_hash("anna", former, must_change=True)
    with pytest.raises(AccessDenied):
        accounts.sign_in(catalog, "anna", "wrong password")
    assert catalog.users.password_hash("anna") == former
    accounts.sign_in(catalog, "anna", PASSWORD)
    stored = catalog.users.password_hash("anna")
    assert stored is not None and stored.startswith("$argon2id$") and catalog.users.get("anna").must_change
    accounts.sign_in(catalog, "anna", PASSWORD)
    assert catalog.users.password_hash("anna") == stored, "once is enough"


def test_a_password_that_changes_while_it_is_checked_opens_nothing(catalog: Catalog, anna: User) -> None:
    checked = accounts.check_password("anna", PASSWORD, catalog.users.password_hash("anna"))
    accounts.set_password(catalog, "anna", "another password", actor="root")
    with pytest.raises(AccessDenied):
        accounts.enter(catalog, checked)
    accounts.sign_in(catalog, "anna", "another password")


def test_a_sign_in_link_works_once_for_ten_minutes(
    catalog: Catalog, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = accounts.make_link(catalog, "anna", "root")
    assert accounts.session_of(catalog, link) is None, "a link is no session"
    token, session = accounts.enter_by_link(catalog, link)
    assert accounts.session_of(catalog, token) is not None and session.user == "anna"
    late = accounts.make_link(catalog, "anna", "root")
    for bad in (link, token, "", late + "x"):
        with pytest.raises(AccessDenied, match="invalid, was used, or has expired"):
            accounts.enter_by_link(catalog, bad)
    monkeypatch.setattr(accounts, "now", lambda at=now(): at + accounts.LINK_SECONDS + 1)
    with pytest.raises(AccessDenied):
        accounts.enter_by_link(catalog, late)
    accounts.set_active(catalog, "anna", False, "root")
    with pytest.raises(Conflict, match="deactivated"):
        accounts.make_link(catalog, "anna", "root")
    assert [one.action for one in catalog.audit.list(actor="root")].count("session.link") == 2


def test_unknown_people(catalog: Catalog) -> None:
    for act in (
        lambda: accounts.set_password(catalog, "nobody", PASSWORD, "root"),
        lambda: accounts.set_roles(catalog, "nobody", ["admin"], "root"),
        lambda: accounts.set_active(catalog, "nobody", True, "root"),
        lambda: accounts.remove_user(catalog, "nobody", "root"),
        lambda: accounts.make_link(catalog, "nobody", "root"),
    ):
        with pytest.raises(NotFound, match="nobody"):
            act()
