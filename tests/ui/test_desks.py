"""What the desks show and do, without a browser."""

from html import escape

import pytest
from gradio_client import Client

from dataengine.errors import InputRefused
from dataengine.images import decode
from dataengine.records import now
from pipelines.services.admin import users
from pipelines.services.admin.audit import find_events
from storage.queries.audit import AuditFilter
from storage.workspace import Workspace
from tests.ui.conftest import PASSWORD
from ui.admin import people, system
from ui.web.gradio_kit import ago, plain, short, size


def test_the_first_account_must_be_admin_and_one_always_stays(bare: Workspace) -> None:
    def create(name: str, *roles: str) -> None:
        users.add_user(bare, name, PASSWORD, roles, "local")

    with pytest.raises(InputRefused, match="first account"):
        create("ann", "annotator")
    create("boss", "admin")
    create("ann", "annotator")
    with pytest.raises(InputRefused, match="no active admin"):
        users.set_roles(bare, "boss", ["rater"], "boss")
    with pytest.raises(InputRefused, match="no active admin"):
        users.set_active(bare, "boss", False, "boss")
    users.set_active(bare, "ann", False, "boss")
    table = people.people_table(users.list_accounts(bare))
    assert list(table["name"]) == ["ann", "boss"]
    assert list(table["state"]) == ["deactivated", "active"]
    assert "deactivated the account" in [row.what for row in find_events(bare, AuditFilter())[0]]


def test_system_panels_and_disk_use(workspace: Workspace) -> None:
    health, workers, absent, files, runs = system.system_state(workspace)
    assert "- **8** images" in health.splitlines() and files.empty and runs.empty
    assert workers.empty and "clinic worker" in absent
    names = list(system.disk_use(workspace)["part"])
    assert "blobs" in names and "catalog.sqlite" in names


def test_through_gradios_own_client(live: tuple[str, Workspace]) -> None:
    url, workspace = live
    import httpx

    def cookie(name: str) -> dict[str, str]:
        answer = httpx.post(f"{url}/api/login", json={"name": name, "password": PASSWORD})
        return {"Cookie": answer.headers["set-cookie"].split(";")[0]}

    client = Client(f"{url}/admin/", headers=cookie("admin"), download_files=False, verbose=False)
    client.predict("guest", PASSWORD, ["rater"], api_name="/add_person")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.users.get("guest").roles == ("rater",)
        assert catalog.audit.list(action="user.create", actor="admin")
    with pytest.raises(Exception, match="already"):
        client.predict("guest", PASSWORD, ["rater"], api_name="/add_person")
    for name in ("rater", "engineer"):
        with pytest.raises(Exception):  # noqa: B017 the client has no error of its own for 403
            Client(f"{url}/admin/", headers=cookie(name), download_files=False, verbose=False)


def test_words_for_numbers() -> None:
    assert [short(value) for value in (True, None, 12345, 0.123456, "x")] == [
        "yes",
        "–",
        "12,345",
        "0.123",
        "x",
    ]
    assert [size(value) for value in (12, 1500, 2.5e9, 3e12)] == ["12 B", "1.5 kB", "2.5 GB", "3.0 TB"]
    assert [ago(now() - seconds) for seconds in (5, 120, 7300, 200_000)] == [
        "5 s ago",
        "2 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert [short(value) for value in ([1, 2.5], [], [[1]], list(range(9)))] == [
        "1, 2.5",
        "none",
        "1 values",
        "9 values",
    ]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InputRefused, match="not a PNG, JPEG"):
        decode(b"no picture")


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "[a](javascript:b)", "![x](//y)", "a_b*c*", "# 1"]
)
def test_texts_are_shown_as_they_are(text: str) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").render(plain(text))
    assert html == f"<p>{escape(text, quote=False)}</p>\n"
