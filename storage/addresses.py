"""Addresses of databases and blob stores as they may be shown: without passwords and keys."""

import re
from urllib.parse import unquote

HIDDEN = "***"
_SECRETS = re.compile(r"(?i)([?&][^=&]*(?:password|passwd|secret|token|key|sig(?:nature)?)[^=&]*=)[^&#]*")


def redacted_url(url: str) -> str:
    """The URL without its password and without the values of parameters named like secrets.

    Also for a URL that cannot be parsed, for example because a password holds an unescaped `@` or `/`.
    """
    scheme, separator, rest = url.partition("://")
    before, at, place = rest.rpartition("@")
    if not separator or not at:
        return _SECRETS.sub(rf"\1{HIDDEN}", url)
    user, colon, _ = before.partition(":")
    name = f"{user}:{HIDDEN}" if colon else user
    return _SECRETS.sub(rf"\1{HIDDEN}", f"{scheme}://{name}@{place}")


def without_password(text: str, url: str) -> str:
    """The text, for example a driver's error message, without the URL's password in it."""
    rest = url.partition("://")[2].rpartition("@")[0]
    password = rest.partition(":")[2]
    for form in {password, unquote(password)} - {""}:
        text = text.replace(form, HIDDEN)
    return text
