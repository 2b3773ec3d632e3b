"""Encoded prompts of any pipeline: what its `encode_prompt` answered, kept row by row and given back later.

Pipelines answer tensors with the batch on any axis, lists of one tensor per prompt, tensors that all
prompts share, and None. `Recording` learns which is which from one and two copies of a prompt, and keeps
everything as a `Conditioning`, whose tensors all have one row per prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dataengine.errors import ModelRefused
from dataengine.treatment.families.diffusion import Conditioning

SIZES = " sizes"
"""Ends the name of the tensor that says how large each row is, where rows are padded."""

Encode = Callable[[Sequence[str]], list[Any]]
"""The answers of all calls of `encode_prompt` for some prompts, in order."""


@dataclass(frozen=True)
class Part:
    """One value among the answers: where its batch is."""

    kind: str
    """"none", "shared", "listed" or "batched"."""
    axis: int = 0
    stacked: int = 1
    """How many batches follow each other on the axis."""

    def rows(self, value: Any, count: int) -> list[Tensor]:
        """The value of each prompt."""
        if self.kind == "listed":
            return list(value)
        if self.kind == "shared":
            return [value] * count
        apart = value.unflatten(self.axis, (self.stacked, count))
        return list(apart.unbind(self.axis + 1))

    def joined(self, rows: Sequence[Tensor]) -> Any:
        """The inverse of `rows`."""
        if self.kind == "listed":
            return list(rows)
        if self.kind == "shared":
            return rows[0]
        return torch.stack(list(rows), self.axis + 1).flatten(self.axis, self.axis + 1)


class Recording:
    """The form of a pipeline's encoded prompts."""

    def __init__(self, encode: Encode, one_by_one: bool = False) -> None:
        """Learns from a short and a long prompt. Raises `ModelRefused` for other kinds of answers.

        With `one_by_one`, or where the length of an answer depends on its prompt, prompts are encoded one at
        a time, so that an image does not depend on the rest of its batch.
        """
        short, long = "a", "a b c d e f g " * 10
        single = encode([short])
        self._calls = [(_width(one), isinstance(one, tuple)) for one in single]
        ones, twos = _values(single), _values(encode([short, short]))
        if len(ones) != len(twos):
            raise ModelRefused("its number of encoded values depends on the number of prompts")
        self._parts = [_part(one, two) for one, two in zip(ones, twos, strict=True)]
        self.padded = self._shapes(encode([long])) != self._shapes(single)
        """Whether rows have different lengths."""
        self.one_by_one = one_by_one or self.padded
        self._encode = encode

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts."""
        batches = [[prompt] for prompt in prompts] if self.one_by_one else [list(prompts)]
        return Conditioning.joined(self._packed(self._encode(batch), len(batch)) for batch in batches)

    def replay(self, conditioning: Conditioning) -> list[Any]:
        """The answers for the rows of `conditioning`, which must be alike (see `alike`)."""
        count = len(conditioning)
        values: list[Any] = []
        for number, part in enumerate(self._parts):
            name = str(number)
            if part.kind == "none":
                values.append(None)
                continue
            rows = list(conditioning[name])
            if self.padded:
                sizes = conditioning[name + SIZES].tolist()
                rows = [row[tuple(map(slice, size))] for row, size in zip(rows, sizes, strict=True)]
            assert len(rows) == count
            values.append(part.joined(rows))
        answers, at = [], 0
        for width, is_tuple in self._calls:
            answers.append(tuple(values[at : at + width]) if is_tuple else values[at])
            at += width
        return answers

    def alike(self, conditioning: Conditioning) -> list[int]:
        """The group of each row: rows of one group have equal lengths, and can be asked together."""
        if not self.padded:
            return [0] * len(conditioning)
        names = [str(n) + SIZES for n, part in enumerate(self._parts) if part.kind in ("batched", "shared")]
        if not names:
            return [0] * len(conditioning)
        sizes = torch.cat([conditioning[name] for name in names], 1).tolist()
        known: dict[tuple[int, ...], int] = {}
        return [known.setdefault(tuple(one), len(known)) for one in sizes]

    def _packed(self, answers: list[Any], count: int) -> Conditioning:
        tensors: dict[str, Tensor] = {}
        for number, (part, value) in enumerate(zip(self._parts, _values(answers), strict=True)):
            if (part.kind == "none") != (value is None):
                raise ModelRefused("an encoded value is there for some prompts and not for others")
            if value is None:
                continue
            rows = part.rows(value, count)
            if self.padded:
                tensors[str(number) + SIZES] = torch.tensor([row.shape for row in rows])
            tensors[str(number)] = torch.stack(rows)
        return Conditioning(tensors)

    def _shapes(self, answers: list[Any]) -> list[torch.Size]:
        """The shapes of all values of one prompt."""
        pairs = zip(self._parts, _values(answers), strict=True)
        return [part.rows(value, 1)[0].shape for part, value in pairs if value is not None]


def _width(answer: Any) -> int:
    return len(answer) if isinstance(answer, tuple) else 1


def _values(answers: Sequence[Any]) -> list[Any]:
    return [value for each in answers for value in (each if isinstance(each, tuple) else (each,))]


def _part(one: Any, two: Any) -> Part:
    """How a value of one prompt and of twice that prompt differ."""
    if one is None and two is None:
        return Part("none")
    if isinstance(one, list) and isinstance(two, list) and all(map(torch.is_tensor, two)):
        if len(two) == 2 * len(one) == 2:
            return Part("listed")
    elif torch.is_tensor(one) and torch.is_tensor(two) and one.ndim == two.ndim:
        if one.shape == two.shape:
            return Part("shared")
        grown = [axis for axis in range(one.ndim) if two.shape[axis] != one.shape[axis]]
        if len(grown) == 1 and two.shape[grown[0]] == 2 * one.shape[grown[0]]:
            return Part("batched", grown[0], one.shape[grown[0]])
    raise ModelRefused(
        f"encode_prompt answers {type(one).__name__} for one prompt and {type(two).__name__} for two; "
        "expected tensors or lists of them, with one row per prompt"
    )
