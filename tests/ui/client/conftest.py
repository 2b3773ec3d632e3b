"""Clients of a live server, by the role of their account."""

from collections.abc import Callable, Iterator

import pytest

from pipelines.services.admin.tokens import create_token
from storage.workspace import Workspace
from ui.client import Clinic


@pytest.fixture(scope="module")
def token_of(live: tuple[str, Workspace], request: pytest.FixtureRequest) -> Callable[..., str]:
    """API tokens of the live server: of an account, with its role or others."""
    made: dict[tuple[str, ...], str] = {}

    def token(name: str, *roles: str) -> str:
        if (name, *roles) not in made:
            title = f"{request.node.name[-30:]} {len(made)}"
            made[name, *roles] = create_token(live[1], name, title, roles or (name,), 1, "test")[0]
        return made[name, *roles]

    return token


@pytest.fixture
def clinic(live: tuple[str, Workspace], token_of: Callable[..., str]) -> Iterator[Callable[..., Clinic]]:
    """Clients of the live server."""
    made: list[Clinic] = []

    def client(name: str, *roles: str) -> Clinic:
        made.append(Clinic(live[0], token_of(name, *roles)))
        return made[-1]

    yield client
    for one in made:
        one.close()
