"""Counts in sentences."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun, which takes an s: "1 image", "0 images", "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
