"""Encoded prompts and latents of a treatment on disk, read by row, so that memory does not grow with their
number.

They are encoded in pieces of `PIECE` rows, each one safetensors file, renamed into place. A resumed run uses
the pieces that are there: each names the inputs that it was made from and the model that encoded them.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dataengine import durable
from dataengine.errors import ConfigRefused
from dataengine.records import digest
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import ENCODED_AT_ONCE, crop_and_resize

PIECE = ENCODED_AT_ONCE
"""Rows per file."""
MARGIN = 1e9
"""Bytes of the disk that encoding leaves free."""
GIGABYTE = 1e9


class Rows(Protocol):
    """Encoded inputs of which rows can be read: in memory (`Conditioning`) or on disk (`EncodedRows`)."""

    def __len__(self) -> int: ...

    def rows(self, index: Sequence[int] | Tensor) -> Conditioning:
        """The rows of that index, in its order, on the CPU; one may repeat."""


@dataclass(frozen=True)
class EncodedRows:
    """Encoded inputs in a folder of pieces."""

    folder: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def rows(self, index: Sequence[int] | Tensor) -> Conditioning:
        """See `Rows`. Only these rows are read."""
        return Conditioning.joined(self._row(int(row)) for row in index)

    def _row(self, row: int) -> Conditioning:
        piece, inside = divmod(row, PIECE)
        with safe_open(piece_file(self.folder, piece), framework="pt") as file:
            names = list(file.keys())
            return Conditioning({name: file.get_slice(name)[inside : inside + 1] for name in names})


@dataclass(frozen=True)
class RowOrder:
    """Rows of which only some are there, in another order: `at` maps a row to its place in `encoded`."""

    encoded: EncodedRows
    at: dict[int, int]

    def __len__(self) -> int:
        return len(self.encoded)

    def rows(self, index: Sequence[int] | Tensor) -> Conditioning:
        """See `Rows`."""
        return self.encoded.rows([self.at[int(row)] for row in index])


def encode_rows(
    folder: Path,
    inputs: Sequence[Any] | np.ndarray,
    encode: Callable[[Any], Conditioning],
    tell: Callable[[], None] = lambda: None,
) -> EncodedRows:
    """Encode `inputs` (texts, or images uint8 HWC) into `folder`; pieces that are there already are kept.

    `encode` answers a slice of the inputs; `tell` is called after each piece. Memory holds one piece. Raises
    `ConfigRefused` when the disk is too small for all of them.
    """
    durable.make_folder(folder)
    encoder = _content(encode(inputs[:1]))
    for piece, start in enumerate(range(0, len(inputs), PIECE)):
        part = inputs[start : start + PIECE]
        file, identity = piece_file(folder, piece), digest("encoded", encoder, *map(_key, part))
        if _identity(file) != identity:
            encoded = encode(part).to("cpu").tensors
            _refuse_full_disk(folder, encoded, len(inputs) - start)
            _write(file, encoded, identity)
        tell()
    return EncodedRows(folder, len(inputs))


def encode_pixels(
    family: GeneratorFamily, size: tuple[int, int], batch: int, images: Sequence[np.ndarray]
) -> Conditioning:
    """Latents of images uint8 HWC of any sizes, `batch` at once, cropped and resized to `size`."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = torch.cat([crop_and_resize(image, size) for image in images[start : start + batch]])
        parts.append(family.encode_images(pixels.to(family.device)).cpu())
    return Conditioning({"latents": torch.cat(parts)})


def piece_file(folder: Path, piece: int) -> Path:
    """The file of a piece. Its name begins with a dot, so that a scratch folder that is handed over to
    another machine leaves it out: encoding again is quicker than the transfer."""
    return folder / f".{piece:06}.safetensors"


def _write(file: Path, tensors: Any, identity: str) -> None:
    draft = file.with_suffix(f".{os.getpid()}.part")
    # A clone: safetensors refuses tensors that share memory, as outputs of one network may.
    whole = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    save_file(whole, draft, metadata={"identity": identity})
    durable.move(draft, file)


def _identity(file: Path) -> str | None:
    """What the piece was made from; None where there is none, or it cannot be read."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("identity")
    except (OSError, SafetensorError):
        return None


def _refuse_full_disk(folder: Path, encoded: Any, left: int) -> None:
    count = len(next(iter(encoded.values())))
    needed = left * sum(tensor.nbytes for tensor in encoded.values()) / count
    free = shutil.disk_usage(folder).free
    if needed + MARGIN > free:
        raise ConfigRefused(
            f"encoding {left} more prompts or images takes {needed / GIGABYTE:.1f} GB of disk, and "
            f"{free / GIGABYTE:.1f} GB are free in {folder}; free some space, or treat with fewer updates or "
            "images"
        )


def _content(encoded: Conditioning) -> str:
    """What the encoder makes of an input: another model makes something else."""
    return digest("content", *_hashes(encoded.to("cpu").tensors.values()))


def _hashes(tensors: Iterable[Tensor]) -> list[str]:
    return [
        hashlib.sha256(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for tensor in tensors
    ]


def _key(item: Any) -> str:
    """A text itself; an image by its pixels."""
    return item if isinstance(item, str) else f"{item.shape} {hashlib.sha256(item.tobytes()).hexdigest()}"


def draw_rows(count: int, batch: int, paired: bool, rng: torch.Generator) -> Tensor:
    """Random rows of a batch out of `count`, int64 (batch,); with `paired` one half of them is drawn from the
    first half of the rows, the other from the second, the first half getting the odd one."""
    if not paired:
        return torch.randint(count, (batch,), generator=rng)
    half, first = count // 2, (batch + 1) // 2
    return torch.cat(
        [
            torch.randint(half, (first,), generator=rng),
            torch.randint(half, count, (batch - first,), generator=rng),
        ]
    )
