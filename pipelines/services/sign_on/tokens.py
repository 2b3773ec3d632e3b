"""The check of an ID token: its signature by one of the provider's keys, and every claim that matters."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    JoseError,
    MissingClaimError,
)
from joserfc.jwk import import_key

from dataengine.errors import AccessDenied, ServiceAbsent

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures by a private key, which only the provider has. HMAC and "none" would let others sign."""
KEY_TYPES = ("RSA", "EC")
MOST_KEYS = 100
MOST_SUBJECT = 255
"""Characters of a subject, by the specification."""
CLAIMS = {
    "iss": "is from another issuer",
    "aud": "is for another client",
    "azp": "is for another client",
    "nonce": "belongs to another sign-in",
    "nbf": "is not valid yet; are the clocks right?",
    "iat": "is from the future; are the clocks right?",
    "sub": "names nobody",
    "at_hash": "belongs to another access token",
}
"""What is wrong with a token whose claim is wrong."""

Keys = Callable[[bool], Sequence[Any]]
"""The provider's keys; asked with True for fresh ones."""


def usable_keys(published: Mapping[str, Any]) -> list[Any]:
    """The public keys of a key set that can check signatures; others are left out. Raises `ServiceAbsent`."""
    listed = published.get("keys")
    if not isinstance(listed, list):
        raise ServiceAbsent("the provider publishes no keys; ask an admin")
    keys = []
    for one in listed[:MOST_KEYS]:
        if not isinstance(one, dict) or one.get("kty") not in KEY_TYPES or one.get("use", "sig") != "sig":
            continue
        try:
            keys.append(import_key({name: value for name, value in one.items() if name != "key_ops"}))
        except (JoseError, ValueError, TypeError):
            continue
    return keys


def checked_claims(
    token: str,
    keys: Keys,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str | None,
    leeway: float,
    provider: str,
) -> dict[str, Any]:
    """The claims of an ID token, all of which were checked. Raises `AccessDenied`, saying what is wrong."""
    decoded = verified(token, keys, provider)
    options: Any = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": client_id},
        "sub": {"essential": True},
    }
    known = {"nonce": nonce, "client_id": client_id, "access_token": access_token}
    try:
        CodeIDToken(decoded.claims, decoded.header, options, known).validate(leeway=int(leeway))
    except ExpiredTokenError:
        raise AccessDenied(f"the ID token of {provider} has expired; are the clocks right?") from None
    except MissingClaimError as error:
        raise AccessDenied(f"the ID token of {provider} lacks the claim {error.claim!r}") from None
    except ClaimError as error:
        why = CLAIMS.get(error.claim, f"has a wrong claim {error.claim!r}")
        raise AccessDenied(f"the ID token of {provider} {why}") from None
    except (JoseError, ValueError, TypeError, KeyError):
        raise AccessDenied(f"the ID token of {provider} has claims of a wrong kind") from None
    subject = decoded.claims["sub"]
    if not isinstance(subject, str) or not 1 <= len(subject) <= MOST_SUBJECT or not subject.isprintable():
        raise AccessDenied(f"the ID token of {provider} {CLAIMS['sub']}")
    return dict(decoded.claims)


def verified(token: str, keys: Keys, provider: str) -> Any:
    """The decoded token, whose signature is by one of the provider's keys.

    Where none fits, the keys are asked for anew: providers rotate them. Raises `AccessDenied`.
    """
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, TypeError, UnicodeError):
        raise AccessDenied(f"the ID token of {provider} is none") from None
    if header.get("alg") not in ALGORITHMS:
        raise AccessDenied(
            f"the ID token of {provider} is signed by {str(header.get('alg'))[:20]!r}, which does not prove "
            f"that the provider made it; it has to sign by one of {', '.join(ALGORITHMS)}"
        )
    tried: Sequence[Any] = ()
    for again in (False, True):
        fresh = keys(again)
        if again and fresh is tried:
            break
        for key in candidates(fresh, header.get("kid")):
            try:
                return decoded_by(token, key)
            except (BadSignatureError, JoseError, ValueError, TypeError):
                continue
        tried = fresh
    raise AccessDenied(
        f"the ID token of {provider} is signed by a key that it does not publish; please try again"
    )


def candidates(keys: Sequence[Any], kid: object) -> list[Any]:
    """The keys of that id, or all of them for a token that names none."""
    return [key for key in keys if kid is None or key.kid == kid]


def decoded_by(token: str, key: Any) -> Any:
    """The token decoded with one key. Raises errors of joserfc if its signature is by another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        return jwt.decode(token, key, registry=registry)
