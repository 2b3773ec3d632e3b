"""Connections that go to the address that was checked: by form, by name, by redirect, by a second answer."""

import ipaddress
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from dataengine import outgoing
from dataengine.errors import ConfigRefused, InputRefused
from dataengine.outgoing import (
    Address,
    AddressRefused,
    checked_addresses,
    checked_client,
    is_permitted,
    is_public,
    networks_of,
    parsed_networks,
)

LOOPBACK = parsed_networks(("127.0.0.0/8",))


class Changing:
    """A resolver whose answers change from one question to the next."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host: str) -> Sequence[Address]:
        self.asked += 1
        text = self.answers[min(self.asked, len(self.answers)) - 1]
        return [ipaddress.ip_address(one) for one in text.split()]


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server on this machine, and (path, Host) of the requests that it got; /away/HOST/PATH redirects."""
    got: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append((self.path, self.headers["Host"]))
            away = self.path.startswith("/away/")
            self.send_response(302 if away else 200)
            if away:
                self.send_header("Location", f"http://{self.path.removeprefix('/away/')}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::7f00:1",
        "::8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::a00:1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
    ],
)
def test_this_is_no_public_address(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(AddressRefused, match="private or local"):
        checked_addresses("x.example", (), lambda host: [ipaddress.ip_address(address)])


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "2606:4700::1111", "172.32.0.1"])
def test_this_is_one(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "0", "localhost"]
)
def test_what_the_system_reads_as_this_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused, match="private or local"):
        checked_addresses(host, ())
    with pytest.raises((AddressRefused, httpx.InvalidURL)), checked_client(timeout=5) as client:
        client.get(f"http://{host}:9/")


def test_a_permission_is_for_its_network_alone_and_for_what_it_translates_to() -> None:
    networks = parsed_networks(("10.0.0.0/8", "64:ff9b::/96", "2002::/16"))
    for permitted in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::808:808", "64:ff9b::a01:203", "2002:a00:1::"):
        assert is_permitted(ipaddress.ip_address(permitted), networks), permitted
    for refused in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::10.1.2.3"):
        assert not is_permitted(ipaddress.ip_address(refused), networks), refused
    with pytest.raises(ConfigRefused, match=r"10\.0\.0\.1/8"):
        parsed_networks(("10.0.0.1/8",))


def test_a_location_permits_only_the_address_that_it_writes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(location: str) -> list[str]:
        return [str(network) for network in networks_of(location)]

    assert texts("http://10.1.2.3:8000/v1#m") == ["10.1.2.3/32"] and texts("https://[fd00::1]/") == [
        "fd00::1/128"
    ]
    assert texts("http://localhost:1/") == ["127.0.0.0/8", "::1/128"]
    for other in (
        "https://x.example/",
        "http://2130706433/",
        "http://127.1/",
        "http://169.254.169.254/",
        "",
        "//[",
    ):
        assert texts(other) == [], other
    monkeypatch.setenv(outgoing.VARIABLE, "192.168.0.0/16, 169.254.169.254/32,")
    assert texts("https://x.example/") == ["192.168.0.0/16", "169.254.169.254/32"]


def test_the_connection_goes_to_the_checked_address_under_its_name(
    server: tuple[str, list[tuple[str, str]]],
) -> None:
    port, got = server
    resolver = Changing("127.0.0.1")
    with checked_client(LOOPBACK, timeout=5, resolved=resolver) as client:
        assert client.get(f"http://models.example:{port}/v1").status_code == 200
    assert got == [("/v1", f"models.example:{port}")] and resolver.asked == 1


def test_another_address_is_tried_where_the_first_does_not_answer(
    server: tuple[str, list[tuple[str, str]]],
) -> None:
    port, got = server
    with checked_client(LOOPBACK, timeout=5, resolved=Changing("127.0.0.9 127.0.0.1")) as client:
        assert client.get(f"http://models.example:{port}/").status_code == 200
    assert len(got) == 1


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    server: tuple[str, list[tuple[str, str]]],
) -> None:
    port, got = server
    resolver = Changing("93.184.216.34 127.0.0.1")
    with pytest.raises(AddressRefused), checked_client(timeout=5, resolved=resolver) as client:
        client.get(f"http://models.example:{port}/")
    assert not got


def test_a_name_that_changes_reaches_nothing(server: tuple[str, list[tuple[str, str]]]) -> None:
    port, got = server
    checked_addresses("models.example", (), Changing("93.184.216.34"))
    later = Changing("10.0.0.1")
    with pytest.raises(AddressRefused), checked_client(LOOPBACK, timeout=5, resolved=later) as client:
        client.get(f"http://models.example:{port}/")
    assert not got


def test_redirects_are_not_followed_or_each_is_checked(server: tuple[str, list[tuple[str, str]]]) -> None:
    port, got = server
    only = parsed_networks(("127.0.0.1/32",))
    with checked_client(only, timeout=5) as client:
        assert client.get(f"http://127.0.0.1:{port}/away/127.0.0.1:{port}/in").status_code == 302
    with checked_client(only, timeout=5, follow_redirects=True) as client:
        assert client.get(f"http://127.0.0.1:{port}/away/127.0.0.1:{port}/in").status_code == 200
        for elsewhere in (f"127.0.0.2:{port}/in", "169.254.169.254/latest", f"[::ffff:127.0.0.2]:{port}/in"):
            with pytest.raises(AddressRefused):
                client.get(f"http://127.0.0.1:{port}/away/{elsewhere}")
    assert [path for path, _ in got if path == "/in"] == ["/in"]


def test_proxies_of_the_environment_are_not_used(
    server: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, got = server
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    with pytest.raises(AddressRefused), checked_client(timeout=5, resolved=Changing("10.0.0.1")) as client:
        client.get("http://models.example/")
    assert not got


def test_a_name_without_an_address_is_a_failed_connection() -> None:
    def nothing(host: str) -> Sequence[Address]:
        raise InputRefused(f"the host {host!r} cannot be resolved; check the name")

    with pytest.raises(httpx.ConnectError, match="cannot be resolved"):
        checked_client(timeout=5, resolved=nothing).get("http://nowhere.example/")


def test_names_of_metadata_services_are_refused_whatever_they_resolve_to() -> None:
    for name in ("metadata.google.internal", "METADATA.google.internal.", "metadata"):
        with pytest.raises(AddressRefused, match="metadata"):
            checked_addresses(name, (), Changing("8.8.8.8"))
