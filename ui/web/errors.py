"""Errors as JSON problems."""

from typing import Any

from pydantic import BaseModel

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, text in {
        400: "The request is malformed",
        401: "Sign in first",
        403: "The role does not allow it, or the CSRF header is missing",
        404: "No such thing",
        409: "Conflict: the lease was lost, the revision is stale, or the key was already used",
        413: "The body is too large",
        422: "Something in the request cannot be used; nothing was changed",
        503: "No inference service answers",
    }.items()
}


class Problem(BaseModel):
    """One clear sentence."""

    error: str
