"""`clinic tokens`: a program is set up on the server."""

from pathlib import Path

import pytest

from pipelines.services.admin import tokens
from storage.accounts import create_user
from storage.opening import create_workspace
from tests.pipelines.cli.test_commands import Console


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    workspace = create_workspace(tmp_path / "w")
    with workspace.catalog() as catalog:
        create_user(catalog, "ada", "a long password", ["curator", "rater"], "test")
        catalog.commit()
    workspace.close()
    return Console(tmp_path / "w", capsys)


def test_a_token_is_created_listed_and_revoked(console: Console) -> None:
    created = ("tokens", "--create", "nightly", "--person", "ada", "--roles", "curator", "rater")
    status, out, err = console(*created, "--days", "30")
    text = out.splitlines()[0]
    assert status == 0, err
    assert tokens.FORM.fullmatch(text) and "It is not shown again." in out
    status, out, _ = console("tokens")
    id = out.split()[0]
    assert text.split("_")[2] == id and "ada" in out and "curator, rater" in out and text not in out
    assert console("tokens", "--revoke", id)[0] == 0
    assert "was revoked on" in console("tokens", "--person", "ada")[1]
    assert console("tokens", "--person", "ben")[1].startswith("no API tokens")


def test_json_holds_the_token_and_never_its_hash(console: Console) -> None:
    made = console.json("tokens", "--create", "x", "--person", "ada", "--roles", "rater", "--days", "never")
    assert tokens.FORM.fullmatch(made["token"]) and made["expires"] is None
    (listed,) = console.json("tokens")["tokens"]
    assert listed["id"] == made["id"] and "token_hash" not in listed and "token" not in listed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--create", "x"), "needs --person PERSON and --roles"),
        (("--create", "x", "--person", "ada", "--roles", "admin"), "ada has curator, rater"),
        (("--create", "x", "--person", "eve", "--roles", "rater"), "no user 'eve'"),
        (("--create", "x", "--revoke", "y"), "not both"),
        (("--days", "3"), "belong to a new token"),
        (("--revoke", "00000000"), "no API token '00000000'"),
    ],
)
def test_what_cannot_be_is_one_sentence(console: Console, words: tuple[str, ...], said: str) -> None:
    status, _, err = console("tokens", *words)
    assert status == 1 and said in err and err.count("\n") == 1


def test_days_are_a_number_or_never(console: Console) -> None:
    with pytest.raises(SystemExit):
        console("tokens", "--create", "x", "--days", "soon")
