"""What a tar of WebDataset may hold, checked from its headers before `datasets` reads a member."""

import tarfile
from pathlib import Path, PurePosixPath

from dataengine.bounds import ARCHIVE_MEMBERS, IMAGE_BYTES, check_bytes
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.metadata import MAX_SIDECAR_BYTES, displayable_name

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXTS = (".txt", ".text", ".json", ".jsn", ".cls", ".id", ".index")
"""Others, such as pickled tensors, would be decoded by `datasets`, which may run code or take any memory."""


def check_tar(file: Path) -> int:
    """The number of members of a plain tar of images, texts and JSON. Raises `InputRefused` for all else."""
    count = 0
    try:
        # "r:" takes no compressed ones, whose size cannot be told before they are unpacked.
        with tarfile.open(file, "r:") as archive:
            for count, member in enumerate(archive, 1):
                if count > ARCHIVE_MEMBERS:
                    raise InputRefused(f"it has more than {ARCHIVE_MEMBERS} members; split it")
                if not member.isdir():
                    _check_member(member)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InputRefused(f"{file.name} is no uncompressed tar: {reason_of(error)}") from None
    return count


def _check_member(member: tarfile.TarInfo) -> None:
    name = displayable_name(member.name)
    if not member.isreg() or member.issparse():
        raise InputRefused(
            f"its member {name!r} is a link, a sparse or a special file; only plain ones are read"
        )
    kind = PurePosixPath(name).suffix.lower()
    if kind not in IMAGES + TEXTS:
        raise InputRefused(
            f"its member {name!r} is none of {', '.join(IMAGES + TEXTS)}; leave such files out"
        )
    bound = IMAGE_BYTES if kind in IMAGES else MAX_SIDECAR_BYTES
    check_bytes(member.size, bound, f"its member {name!r}", "leave it out")
