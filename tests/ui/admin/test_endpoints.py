"""What an admin may register: no private addresses, no credentials, only folders that exist."""

import ipaddress
from pathlib import Path

import pytest

from dataengine.errors import InputRefused
from dataengine.outgoing import Address, resolve
from pipelines.services.endpoints import checked_endpoint


def at(*addresses: str) -> object:
    def resolved(host: str) -> list[Address]:
        return [ipaddress.ip_address(address) for address in addresses]

    return resolved


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["fd00::1"],
        ["::ffff:10.0.0.1"],
        ["2002:0a00:0001::"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["100.64.0.1"],
        ["93.184.216.34", "192.168.0.4"],
    ],
    ids=",".join,
)
def test_a_private_address_is_refused(addresses: list[str]) -> None:
    with pytest.raises(InputRefused, match="private or local"):
        checked_endpoint("llm", "writer", "https://writer.example/v1", resolved=at(*addresses))  # type: ignore[arg-type]


def test_a_public_address_or_an_allowed_network_is_taken() -> None:
    public = checked_endpoint("llm", "writer", "https://writer.example/v1", resolved=at("93.184.216.34"))  # type: ignore[arg-type]
    assert public.kind == "llm" and public.location == "https://writer.example/v1"
    inside = checked_endpoint("label-studio", "ls", "http://ls.lan:8080", ["10.0.0.0/8"], at("10.1.2.3"))  # type: ignore[arg-type]
    assert inside.name == "ls"
    vqa = checked_endpoint("vqa", "eyes", "https://eyes.example/v1#qwen-vl", resolved=at("93.184.216.34"))  # type: ignore[arg-type]
    assert vqa.location == "https://eyes.example/v1#qwen-vl"
    with pytest.raises(InputRefused, match="private or local"):
        checked_endpoint("vqa", "eyes", "https://eyes.example/v1", resolved=at("10.1.2.3"))  # type: ignore[arg-type]
    with pytest.raises(InputRefused):
        checked_endpoint(
            "label-studio", "ls", "http://ls.lan:8080", ["10.0.0.0/8"], at("10.1.2.3", "127.0.0.1")
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "location",
    [
        "ftp://x.example",
        "x.example",
        "https://",
        "https://me:secret@x.example/",
        "https://x.example:99999/",
        "file:///etc",
    ],
)
def test_what_is_no_plain_url_is_refused(location: str) -> None:
    with pytest.raises(InputRefused):
        checked_endpoint("llm", "writer", location, resolved=at("93.184.216.34"))  # type: ignore[arg-type]


def test_models_are_folders_that_exist_or_hub_ids(tmp_path: Path) -> None:
    assert checked_endpoint("generator", "mine", str(tmp_path)).location == str(tmp_path)
    assert checked_endpoint("generator", "hub", "black-forest-labs/FLUX.1-dev").location
    for kind, location in (
        ("generator", "../up"),
        ("generator", str(tmp_path / "absent")),
        ("generator", "a/b/c"),
        ("generator", "https://x.example/model"),
        ("folder", "owner/name"),
        ("spaceship", str(tmp_path)),
    ):
        with pytest.raises(InputRefused):
            checked_endpoint(kind, "mine", location)
    for name in ("", "x" * 101, "a\nb"):
        with pytest.raises(InputRefused):
            checked_endpoint("generator", name, str(tmp_path))


def test_writers_and_eyes_are_models_or_services_and_scorers_are_models(tmp_path: Path) -> None:
    for kind in ("llm", "vqa", "scorer"):
        assert checked_endpoint(kind, "mine", str(tmp_path)).location == str(tmp_path)
        assert checked_endpoint(kind, "hub", "owner/name").kind == kind
        with pytest.raises(InputRefused):
            checked_endpoint(kind, "mine", str(tmp_path / "absent"))
    with pytest.raises(InputRefused, match="No such folder on the server"):
        checked_endpoint("scorer", "mine", "https://scorer.example/v1")


def test_this_machine_resolves_to_itself() -> None:
    assert any(address.is_loopback for address in resolve("localhost"))
    with pytest.raises(InputRefused, match="cannot be resolved"):
        resolve("nowhere.invalid")


def test_a_webhook_is_https_or_stays_on_this_machine() -> None:
    public, here = at("93.184.216.34"), at("127.0.0.1")
    for location in ("http://hooks.example/x", "http://localhost.hooks.example/x"):
        with pytest.raises(InputRefused, match="https"):
            checked_endpoint("webhook", "chat", location, resolved=public)  # type: ignore[arg-type]
    assert checked_endpoint("webhook", "chat", "https://hooks.example/x", resolved=public).kind == "webhook"  # type: ignore[arg-type]
    with pytest.raises(InputRefused, match="private or local"):
        checked_endpoint("webhook", "chat", "http://localhost:9/x", resolved=here)  # type: ignore[arg-type]
    allowed = checked_endpoint("webhook", "chat", "http://localhost:9/x", ["127.0.0.0/8"], here)  # type: ignore[arg-type]
    assert allowed.location == "http://localhost:9/x"


def test_weights_of_an_encoder_are_a_file_or_a_folder_of_the_server(tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(b"")
    for place in (file, tmp_path):
        assert checked_endpoint("encoder", "ours", str(place)).location == str(place)
    for elsewhere in ("encoder.safetensors", "../encoder.safetensors", str(tmp_path / "gone"), "owner/name"):
        with pytest.raises(InputRefused, match="No such folder on the server"):
            checked_endpoint("encoder", "ours", elsewhere)
    with pytest.raises(InputRefused, match="No such folder"):
        checked_endpoint("folder", "ours", str(file))
