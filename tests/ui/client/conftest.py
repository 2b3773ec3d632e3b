"""Clients of a live server, by the role of their account."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.ui.conftest import PASSWORD
from ui.client import Clinic


def clinic_as(url: str, name: str) -> Clinic:
    """A client that is signed in as somebody."""
    http = httpx.Client(timeout=30)
    csrf = http.post(f"{url}/api/login", json={"name": name, "password": PASSWORD}).json()["csrf"]
    http.headers["X-Clinic-CSRF"] = csrf
    return Clinic(url, "", http=http)


@pytest.fixture
def clinic(live: tuple[str, object]) -> Iterator[Callable[[str], Clinic]]:
    """Clients of the live server."""
    made: list[Clinic] = []

    def signed_in(name: str) -> Clinic:
        made.append(clinic_as(live[0], name))
        return made[-1]

    yield signed_in
    for one in made:
        one.close()
