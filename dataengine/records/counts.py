"""Counts and durations in sentences."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun, which takes an s: "1 image", "0 images", "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """A duration for people: "0 s", "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{max(1, seconds) if seconds else 0:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
