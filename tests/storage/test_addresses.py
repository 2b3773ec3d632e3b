"""Passwords of databases and stores are in no message that people or logs see."""

from pathlib import Path

import pytest

from dataengine.errors import WorkspaceUnusable
from storage.addresses import redacted_url, without_password
from storage.engine import make_engine
from storage.opening import create_workspace

SECRET = "geheim-7f3a"
URLS = (
    f"postgresql://ada:{SECRET}@db.example:5432/clinic",
    f"postgres://ada:{SECRET}@/clinic?host=/run/pg",
    f"postgresql://ada:x@{SECRET}@db/clinic",
    f"postgresql://ada:{SECRET}/x@db/clinic",
    f"postgresql://ada@db/clinic?sslpassword={SECRET}&x=1",
    f"s3://key:{SECRET}@bucket/prefix",
    f"memory://x?api_key={SECRET}",
)


@pytest.mark.parametrize("url", URLS)
def test_a_redacted_url_shows_no_secret_and_keeps_the_place(url: str) -> None:
    shown = redacted_url(url)
    assert SECRET not in shown and "***" in shown
    assert shown.partition("://")[0] == url.partition("://")[0]


@pytest.mark.parametrize(
    "url", ["sqlite:////srv/w/catalog.sqlite", "/srv/blobs", "s3://bucket/x", "postgresql://ada@db/clinic"]
)
def test_a_url_without_secrets_stays(url: str) -> None:
    assert redacted_url(url) == url


def test_an_error_text_loses_the_password_in_any_form() -> None:
    url = "postgresql://ada:a%40b@db/clinic"
    assert without_password("tried a%40b, then a@b", url) == "tried ***, then ***"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:9/clinic",
        f"postgresql://ada:{SECRET}@127.0.0.1:notaport/clinic",
        f"postgresql://ada:{SECRET}/x@127.0.0.1:9/clinic",
        f"nosuchdatabase://ada:{SECRET}@127.0.0.1:9/clinic",
    ],
)
def test_an_unusable_database_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceUnusable) as refused:
        create_workspace(tmp_path / "w", database_url=url)
    assert SECRET not in str(refused.value) and SECRET not in repr(refused.value)


def test_an_engine_shows_no_password() -> None:
    engine = make_engine(f"postgresql://ada:{SECRET}@127.0.0.1:9/clinic")
    assert SECRET not in repr(engine) and SECRET not in str(engine.url)
