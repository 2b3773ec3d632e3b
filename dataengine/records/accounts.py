"""People, what they may do, what they judge, and what is kept of what they did."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

ROLES = ("annotator", "curator", "engineer", "rater", "admin")


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A person with an account; the password is kept as a salted scrypt hash by `storage.accounts`."""

    name: str
    roles: tuple[str, ...]
    active: bool = True
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One signed-in browser. Only the token's hash is kept; `csrf` must come with every change."""

    token_hash: str
    user: str
    csrf: str
    created: float
    expires: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A path, model or service that an admin registered, the only ones a browser may choose."""

    id: str
    kind: Literal[
        "generator", "detector", "vqa", "scorer", "segmenter", "llm", "label-studio", "folder", "webhook"
    ]
    name: str
    location: str
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """Who did what to which thing, and when."""

    actor: str
    action: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=now)
