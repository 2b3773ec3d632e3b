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
        403: "The role does not permit this, or the CSRF header is missing",
        404: "Not found",
        409: "Conflict: the lease was lost, the revision is stale, or the key was already used",
        413: "The body is too large",
        422: "The request is invalid; nothing was changed",
        503: "The inference service, the database or the blob store does not respond; try again",
    }.items()
}


class Problem(BaseModel):
    """An error message."""

    error: str
    request: str = ""
    """The id of the request, to find it in the server's log."""
