"""Signed image URLs for Label Studio."""

import hashlib
import hmac
import os
import secrets

from dataengine.errors import NotFound
from dataengine.records import Image, now
from storage.workspace import Workspace

KEY_FILE = "label-studio.key"
KEY_VARIABLE = "CLINIC_LABEL_STUDIO_SECRET"
SIGNED_SECONDS = 30 * 86400


def signing_secret(workspace: Workspace) -> str:
    """The secret shared with Label Studio: $CLINIC_LABEL_STUDIO_SECRET, else the workspace's own, created
    once."""
    if secret := os.environ.get(KEY_VARIABLE):
        return secret
    return workspace.secret(KEY_FILE, lambda: secrets.token_urlsafe(32).encode()).decode()


def signed_path(image_id: str, key: str, at: float) -> str:
    """The signed path of an image, valid for anybody for `SIGNED_SECONDS` from `at`."""
    expires = int(at) + SIGNED_SECONDS
    return f"/label-studio/images/{image_id}?expires={expires}&signature={_signature(image_id, expires, key)}"


def signed_image(workspace: Workspace, image_id: str, expires: int, signature: str) -> Image:
    """The image of a signed path. Raises `NotFound` for a wrong or expired signature."""
    expected = _signature(image_id, expires, signing_secret(workspace))
    if expires < now() or not hmac.compare_digest(signature.encode(), expected.encode()):
        raise NotFound("this URL is invalid or has expired; push again")
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.get(image_id)


def _signature(image_id: str, expires: int, key: str) -> str:
    return hmac.new(key.encode(), f"image\x1f{image_id}\x1f{expires}".encode(), hashlib.sha256).hexdigest()
