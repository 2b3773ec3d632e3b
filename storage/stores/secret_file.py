"""Secret keys of the workspace in files, created once, readable by their owner only."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from dataengine import durable


def read_or_create_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes in `path`; without such a file, those of `make()`, stored with mode 0600.

    Processes that start together all read the same bytes, because linking a finished file is atomic.
    """
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(make())
            durable.sync(draft)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            durable.sync_folder(path.parent)
        finally:
            draft.unlink()
    return path.read_bytes()
