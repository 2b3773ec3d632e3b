"""Registered model endpoints and webhooks."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from dataengine.errors import InputRefused
from dataengine.model_files import PICKLED, TENSORS_ONLY, check_model_folder
from dataengine.outgoing import (
    Address,
    Network,
    allowed_in_environment,
    checked_addresses,
    parsed_networks,
    resolve,
)
from dataengine.records import AuditEvent, Endpoint, EndpointKind, Webhook, digest, new_secret
from storage.workspace import Workspace


def check_webhook(location: str) -> None:
    """Raise `InputRefused` for an address that workers would refuse."""
    check_target(location)


def check_target(location: str) -> None:
    """Raise `InputRefused` unless this is an https URL, or an http one of this machine."""
    try:
        parts = urlsplit(location)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:
        scheme, host = "", ""
    if not host or not (scheme == "https" or (scheme == "http" and is_local(host))):
        raise InputRefused("a webhook needs an https URL, or an http URL of this machine")


def is_local(host: str) -> bool:
    """True for loopback names and addresses."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


TAGS, MOST_TAGS, MOST_TAG = "tags", 10, 40
SERVICES = frozenset({"label-studio", "webhook"})
EITHER = frozenset({"vqa", "llm"})
MODELS = frozenset({"generator", "detector", "scorer", *EITHER})
KINDS: tuple[EndpointKind, ...] = get_args(EndpointKind)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def add_endpoint(
    workspace: Workspace,
    kind: str,
    name: str,
    location: str,
    actor: str,
    allowed_networks: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Endpoint:
    """Register a model, folder or service for browsers to choose from, with words to find it by. Raises as
    `checked_endpoint` and `checked_tags`.
    """
    endpoint = checked_endpoint(kind, name, location, allowed_networks)
    if kept := checked_tags(tags):
        endpoint = replace(endpoint, settings={TAGS: kept})
    subject = endpoint.name if endpoint.kind == "webhook" else endpoint.location  # a webhook's path is secret
    with workspace.catalog() as catalog:
        catalog.endpoints.add(endpoint)
        if endpoint.kind == "webhook" and catalog.webhooks.find(endpoint.id) is None:
            catalog.webhooks.set(Webhook(endpoint_id=endpoint.id, secret=new_secret()))
        catalog.audit.add(AuditEvent(actor=actor, action="endpoint.add", subject=subject))
        catalog.commit()
    return endpoint


def checked_tags(tags: Sequence[str]) -> list[str]:
    """The tags without blanks and repetitions. Raises `InputRefused` for too many or unusable ones."""
    kept = list(dict.fromkeys(tag for each in tags if (tag := each.strip())))
    if len(kept) > MOST_TAGS or any(len(tag) > MOST_TAG or not tag.isprintable() for tag in kept):
        raise InputRefused(
            f"an endpoint has at most {MOST_TAGS} tags of 1 to {MOST_TAG} printable characters each"
        )
    return kept


def remove_endpoint(workspace: Workspace, endpoint_id: str, actor: str) -> None:
    """Remove a registered endpoint."""
    with workspace.catalog() as catalog:
        catalog.endpoints.remove(endpoint_id)
        catalog.audit.add(AuditEvent(actor=actor, action="endpoint.remove", subject=endpoint_id))
        catalog.commit()


def checked_endpoint(
    kind: str,
    name: str,
    location: str,
    allowed_networks: Sequence[str] = (),
    resolved: Callable[[str], list[Address]] = resolve,
) -> Endpoint:
    """An endpoint that may be registered. Raises `InputRefused`.

    A service is an http(s) URL without credentials, none of whose addresses is private or local unless
    `allowed_networks` ("10.0.0.0/8") holds it; a webhook, to which things are sent, is https but on this
    machine. A model is an absolute folder that exists or a hub id, one that answers questions ("vqa") or
    writes ("llm") may also be a service; an encoder's weights are an absolute file or folder that exists, and
    a folder is an absolute folder that exists. A model's folder holds no program code, nothing that asks for
    some, and no links that leave it.
    """
    name, location = name.strip(), location.strip()
    if kind not in KINDS:
        raise InputRefused(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InputRefused("give the endpoint a name of 1 to 100 printable characters")
    if kind == "webhook":
        check_webhook(location)
    if kind in SERVICES or (kind in EITHER and "://" in location):
        check_url(location, allowed_networks, resolved)
    elif not (kind == "encoder" and Path(location).is_absolute() and Path(location).is_file()):
        check_folder(location, hub_too=kind in MODELS)
        if kind != "folder" and Path(location).is_dir():
            check_model_folder(Path(location), PICKLED if kind in EITHER else PICKLED - TENSORS_ONLY)
    id = digest("endpoint", kind, name, location)
    return Endpoint(id=id, kind=kind, name=name, location=location)


def check_folder(location: str, hub_too: bool) -> None:
    """Raise `InputRefused` unless this is an absolute folder that exists, or a hub id where one will do."""
    if hub_too and HUB_ID.fullmatch(location) and ".." not in location:
        return
    path = Path(location)
    if not path.is_absolute() or not path.is_dir():
        usage = "use an absolute path" + (", or a hub id such as owner/name" if hub_too else "")
        raise InputRefused(f"No such folder on the server: {location} ({usage}).")


def check_url(
    location: str, allowed_networks: Sequence[str], resolved: Callable[[str], list[Address]]
) -> None:
    """Raise `InputRefused` unless this is a plain http(s) URL to a public or allow-listed address."""
    try:
        parts = urlsplit(location)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputRefused(f"{location!r} is not a URL ({error})") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputRefused(f"{location!r} is not an http or https URL")
    if parts.username or parts.password:
        raise InputRefused("keep credentials out of the URL; give them to the server by environment variable")
    checked_addresses(host, permitted(allowed_networks), resolved)


def permitted(allowed_networks: Sequence[str]) -> tuple[Network, ...]:
    """The private networks of the server's setting, and those of its environment. Raises `ConfigRefused`."""
    return parsed_networks((*allowed_networks, *allowed_in_environment()))
