"""Records of accounts, sessions, API tokens, registered endpoints and audit events."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

ROLES = ("annotator", "curator", "engineer", "rater", "admin")


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A person with an account; `storage.accounts` stores the password as a salted scrypt hash."""

    name: str
    roles: tuple[str, ...]
    active: bool = True
    created: float = field(default_factory=now)
    must_change: bool = False
    """Somebody else chose the password: the person has to choose another one before anything else."""
    seen: float | None = None
    """The last request, within a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One signed-in browser. Only the token's hash is stored; every change must carry `csrf`."""

    token_hash: str
    user: str
    csrf: str
    created: float
    expires: float
    client: str = ""
    """The browser, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiToken:
    """What a program signs in with for its owner. Only the token's hash is stored."""

    id: str
    """A part of the token itself, and what lists call it by."""
    user: str
    """Its owner."""
    name: str
    roles: tuple[str, ...]
    """What it may do at most; it loses a role when its owner does."""
    token_hash: str = field(repr=False)
    created: float = field(default_factory=now)
    expires: float | None = None
    """None for never."""
    revoked: float | None = None
    used: float | None = None
    """The last request, within a minute."""


EndpointKind = Literal[
    "generator",
    "detector",
    "encoder",
    "vqa",
    "scorer",
    "segmenter",
    "llm",
    "label-studio",
    "folder",
    "webhook",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A path, model or service registered by an admin; a browser may choose no other."""

    id: str
    kind: EndpointKind
    name: str
    location: str
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """An audited action: actor, action, subject and time."""

    actor: str
    action: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=now)
