"""Connections to addresses that people name: each goes to an address that was checked, and nowhere else.

    with checked_client(networks_of(location), timeout=5.0) as client:
        client.get(location)

A host name is resolved once per connection; every one of its addresses must be public, or in a network that
is permitted explicitly, and the connection is made to such an address. A name that resolves differently a
moment later, or a redirect to a private address, therefore reaches nothing. TLS and `Host` keep the name.
Proxies in the environment are not used, as they would resolve the name again.
"""

import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dataengine.errors import ConfigRefused, InputRefused

if TYPE_CHECKING:
    import httpx

VARIABLE = "CLINIC_ALLOWED_NETWORKS"
"""Private networks that workers, commands and the server may connect to, separated by commas."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str], Sequence[Address]]

_PRIVATE = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
    198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    ::/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16
    fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
PRIVATE: tuple[Network, ...] = tuple(map(ipaddress.ip_network, _PRIVATE.split()))
"""What is no public address by the registries of IANA. Translated forms of IPv4 in IPv6 (NAT64, 6to4, Teredo,
IPv4-compatible) count as private, as a gateway may lead them anywhere."""
METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")))
"""Services of clouds that give their machines credentials; one of them has a public address."""
METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)


class AddressRefused(InputRefused):
    """A host has a private address that nobody permitted."""


def resolve(host: str) -> list[Address]:
    """Every address of a host name. Raises `InputRefused` if it has none."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise InputRefused(f"the host {host!r} cannot be resolved; check the name") from None
    return [ipaddress.ip_address(address.partition("%")[0]) for address in sorted(found)]


def is_public(address: Address) -> bool:
    """True for addresses of the public internet; IPv4 mapped into IPv6 counts as that IPv4 address."""
    address = plain(address)
    return address not in METADATA and not any(address in network for network in PRIVATE)


def is_permitted(address: Address, networks: Iterable[Network]) -> bool:
    """Whether a connection may go there: it is public, or in one of these networks, with every IPv4 address
    that it translates to.
    """
    address, networks = plain(address), tuple(networks)
    if is_public(address):
        return True
    if not any(address in network for network in networks):
        return False
    return all(is_permitted(inner, networks) for inner in translated(address))


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address is mapped from (`::ffff:10.0.0.1`), else the address itself."""
    return getattr(address, "ipv4_mapped", None) or address


def translated(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses within a 6to4, Teredo, NAT64 or IPv4-compatible address."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()
    compatible = address in ipaddress.ip_network("::/96") and int(address) > 1
    if compatible or address in ipaddress.ip_network("64:ff9b::/96"):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def parsed_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as written in settings ("10.0.0.0/8"). Raises `ConfigRefused`."""
    found = []
    for text in filter(None, map(str.strip, texts)):
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigRefused(f"{text!r} is no network ({error}); write it as 10.0.0.0/8") from None
    return tuple(found)


def allowed_in_environment() -> tuple[str, ...]:
    """The networks in the environment variable `CLINIC_ALLOWED_NETWORKS`."""
    return tuple(text.strip() for text in os.environ.get(VARIABLE, "").split(",") if text.strip())


def networks_of(location: str) -> tuple[Network, ...]:
    """The networks that a connection to this location may use besides public ones.

    Those of the environment, and the address that the location itself writes out in the usual form
    (`http://127.0.0.1:8000/v1`, `http://localhost`, `https://10.1.2.3`): no name can be turned into it, and
    forms in a browser accept it only if an admin registered it, which needs the server's permission. Metadata
    services and other link-local addresses need that of the environment.
    """
    host = host_of(location)
    if host == "localhost":
        written = parsed_networks(("127.0.0.0/8", "::1/128"))
    else:
        try:
            address = plain(ipaddress.ip_address(host))
        except ValueError:
            written = ()
        else:
            special = address in METADATA or address.is_link_local or address.is_unspecified
            written = () if special else (ipaddress.ip_network(address),)
    return (*written, *parsed_networks(allowed_in_environment()))


def host_of(location: str) -> str:
    """The host of a URL, lower case; "" if it has none."""
    try:
        return (urlsplit(location).hostname or "").rstrip(".")
    except ValueError:
        return ""


def checked_addresses(host: str, networks: Iterable[Network], resolved: Resolver = resolve) -> list[Address]:
    """The addresses of a host, all of which may be connected to.

    Raises `AddressRefused` if one of them may not, `InputRefused` if the name cannot be resolved.
    """
    networks = tuple(networks)
    found = list(resolved(host))
    if host.lower().rstrip(".") in METADATA_NAMES and not networks:
        raise AddressRefused(f"{host} is the metadata service of a cloud, a private address")
    for address in found:
        if not is_permitted(address, networks):
            raise AddressRefused(
                f"{host} is {address}, a private or local address; to permit it, add its network to the "
                f"server's allowed_networks, and for workers and commands to {VARIABLE}"
            )
    return found


def checked_client(
    networks: Iterable[Network] = (),
    *,
    timeout: float,
    follow_redirects: bool = False,
    resolved: Resolver | None = None,
    **options: Any,
) -> "httpx.Client":
    """An `httpx.Client` that connects to permitted addresses only, without proxies, and without redirects
    unless asked for; each redirect is checked like the first address.

    Its requests raise `AddressRefused`, besides the errors of httpx.
    """
    import httpx

    return httpx.Client(
        transport=checked_transport(networks, resolved=resolved),
        timeout=timeout,
        follow_redirects=follow_redirects,
        trust_env=False,
        **options,
    )


def checked_transport(
    networks: Iterable[Network] = (),
    *,
    resolved: Resolver | None = None,
    library: ModuleType | None = None,
    most_bytes: int | None = None,
    most_seconds: float | None = None,
) -> Any:
    """The transport of `checked_client`, for clients of httpx or, as `library`, of its successor httpx2.

    A response that becomes longer than `most_bytes`, or takes longer than `most_seconds`, ends in a
    `ReadError` of the library.
    """
    if library is None:
        import httpx as library
    return _transport_class(library)(tuple(networks), resolved, most_bytes, most_seconds)


@cache
def _transport_class(library: Any) -> Any:
    """The transport for clients of that library."""

    class Bounded(library.SyncByteStream):
        """The body of a response, up to a length and a moment."""

        def __init__(self, stream: Any, most_bytes: float, until: float) -> None:
            self._stream, self._most_bytes, self._until = stream, most_bytes, until

        def __iter__(self) -> Iterator[bytes]:
            read = 0
            for part in self._stream:
                read += len(part)
                if read > self._most_bytes or time.monotonic() > self._until:
                    raise library.ReadError("the response is too long or too slow")
                yield part

        def close(self) -> None:
            self._stream.close()

    class CheckedTransport(library.HTTPTransport):
        """Resolves the host of each request once and connects to the addresses that were checked."""

        def __init__(
            self,
            networks: tuple[Network, ...],
            resolved: Resolver | None,
            most_bytes: int | None,
            most_seconds: float | None,
        ) -> None:
            super().__init__(verify=authorities(), trust_env=False)
            self._networks, self._resolved = networks, resolved
            self._most_bytes, self._most_seconds = most_bytes, most_seconds

        def handle_request(self, request: Any) -> Any:
            until = time.monotonic() + (self._most_seconds or float("inf"))
            response = self._connected(request)
            if self._most_bytes or self._most_seconds:
                response.stream = Bounded(response.stream, self._most_bytes or float("inf"), until)
            return response

        def _connected(self, request: Any) -> Any:
            host = request.url.raw_host.decode("ascii")
            try:
                addresses = checked_addresses(host, self._networks, self._resolved or resolve)
            except AddressRefused:
                raise
            except InputRefused as error:
                raise library.ConnectError(str(error), request=request) from error
            for address in addresses[:-1]:
                try:
                    return super().handle_request(_pinned(library, request, host, address))
                except (library.ConnectError, library.ConnectTimeout):
                    continue
            return super().handle_request(_pinned(library, request, host, addresses[-1]))

    return CheckedTransport


def _pinned(library: Any, request: Any, host: str, address: Address) -> Any:
    """The same request to an address of its host; `Host` and the name that TLS checks stay."""
    return library.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


@cache
def authorities() -> ssl.SSLContext:
    """The certificate authorities of the system, to which teams add their own (also by `SSL_CERT_FILE`)."""
    return ssl.create_default_context()
