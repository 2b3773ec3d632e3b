"""A key of the workspace in a file, made once, readable by its owner alone."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from dataengine import durable


def read_or_create_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes in `path`; where there is no such file, those of `make()`, stored with mode 0600.

    Of several processes that start together all read the same bytes: linking a finished file is atomic.
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
