"""What the access bench counts as a breach, as a failure and as a live formula."""

import pytest

from dataengine.records import ROLES
from tests.bench import access_injections
from tests.bench.access_api import (
    NOBODY,
    PLANTED,
    Asked,
    as_declared,
    breached,
    by_token,
    control,
    declared,
    failed,
)


def test_the_declaration_follows_the_longest_prefix_and_its_exceptions() -> None:
    assert declared("GET", "/api/curate/people/gold") == {"curator", "admin"}
    assert declared("GET", "/api/curate/reviews") == {"curator", "engineer", "admin"}
    assert declared("POST", "/api/curate/reviews") == {"curator", "admin"}
    assert declared("GET", "/") == set(ROLES) and NOBODY in declared("GET", "/healthz")
    assert by_token("GET", "/api/account/tokens") == set() and by_token("POST", "/api/logout") == set()


@pytest.mark.parametrize(
    ("role", "allowed", "status", "right"),
    [
        ("admin", {"admin"}, 200, True), ("admin", {"admin"}, 422, True), ("admin", {"admin"}, 403, False),
        ("rater", {"admin"}, 403, True), ("rater", {"admin"}, 404, False), ("rater", {"admin"}, 401, False),
        (NOBODY, {"admin"}, 401, True), (NOBODY, {"admin"}, 200, False),
    ],
)  # fmt: skip
def test_a_status_is_as_declared(role: str, allowed: set[str], status: int, right: bool) -> None:
    assert as_declared(role, allowed, "/api/x", status) is right


def test_breaches_and_failures_are_told_apart() -> None:
    fine = Asked("curator", "GET", "/api/v1/curate/count", 200)
    breach = Asked("rater", "GET", "/api/v1/curate/count", 200)
    failure = Asked("admin", "GET", "/api/v1/curate/count", 500)
    planted = Asked("engineer", "GET", PLANTED, 500)
    asked = [fine, breach, failure, planted]
    assert breached(asked) == [breach] and failed(asked) == [failure]
    control(asked)
    with pytest.raises(RuntimeError, match="planted"):
        control([fine, breach])


def test_formulas_are_found_in_plain_tables_only() -> None:
    access_injections.control_of_tables()
    escaped = "\n".join(f'"\'{one.replace(chr(34), chr(34) * 2)}"' for one in access_injections.FORMULAS)
    assert not list(access_injections.live_cells(escaped))
