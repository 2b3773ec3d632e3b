"""The cookies of sign-in, named by the port and the sub-path: browsers share a host name's cookies among its
ports, and those of "/" among all paths, and two clinics on one host must not sign each other out.
"""

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response

COOKIE = "clinic_session"
FORM_COOKIE = "clinic_form"
DEVICE_COOKIE = "clinic_device"
FORM_PATH = "/login"
PROTO, PREFIX = "x-forwarded-proto", "x-forwarded-prefix"
"""Headers that are true, since `Forwarded` has dropped those of strangers."""
SIGN_ON_COOKIE = "clinic_sign_on"
SIGN_ON_PATH, SIGN_ON_END = "/login/sso", "/login/sso/end"


def session_cookie(headers: Mapping[str, str], secure: bool) -> str:
    """The session cookie's name for the address in the browser, such as `clinic_session_7860`.

    Behind HTTPS it begins with `__Host-`: then no other host, and no plain HTTP, can set it. Below a sub-path
    that is `__Secure-`, since the former holds for whole hosts.
    """
    kind = "__Secure-" if headers.get(PREFIX) else "__Host-"
    return f"{kind if secure else ''}{COOKIE}_{place_of(headers, secure)}"


def form_cookie(headers: Mapping[str, str], secure: bool) -> str:
    """The name of the sign-in form's cookie, which is sent to `FORM_PATH` only."""
    return f"{'__Secure-' if secure else ''}{FORM_COOKIE}_{place_of(headers, secure)}"


def device_cookie(headers: Mapping[str, str], secure: bool) -> str:
    """The name of the cookie by which a browser shows who signed in there before."""
    return f"{'__Secure-' if secure else ''}{DEVICE_COOKIE}_{place_of(headers, secure)}"


def is_secure(headers: Mapping[str, str], always: bool) -> bool:
    """Whether cookies are marked Secure: `always`, or since the browser's address begins with https."""
    return always or headers.get(PROTO) == "https"


def place_of(headers: Mapping[str, str], secure: bool) -> str:
    """Port and sub-path of the browser's address, as a part of a cookie's name."""
    return f"{port_of(headers, secure)}{headers.get(PREFIX, '').replace('/', '_')}"


def sign_on_cookie(headers: Mapping[str, str], secure: bool) -> str:
    """The name of the cookie of a sign-in that has gone to the provider, sent to `SIGN_ON_PATH` only."""
    return f"{'__Secure-' if secure else ''}{SIGN_ON_COOKIE}_{place_of(headers, secure)}"


def port_of(headers: Mapping[str, str], secure: bool) -> int:
    """The port in the browser's address bar."""
    try:
        port = urlsplit(f"//{headers.get('host', '')}").port
    except ValueError:
        port = None
    return port or (443 if secure else 80)


def cookies_of(headers: Headers) -> dict[str, str]:
    """The request's cookies; none if the header is malformed."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def forget(response: Response, *names: str) -> Response:
    """The response, telling the browser to drop session cookies."""
    for name in names:
        response.delete_cookie(name, httponly=True, samesite="lax", secure=name.startswith("__"))
    return response
