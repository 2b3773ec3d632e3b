"""What migrations have added lately, for tests that take a catalog back to an earlier one."""

LATER_COLUMNS = {
    "detectors": ("operating_point", "removed", "domain"),
    "generators": ("removed",),
    "queue_items": ("detector_id",),
}
"""Columns that migrations after 0008 add."""

_TABLES = tuple(f"DROP TABLE {name}" for name in ("map_places",))
LATER_OBJECTS = {"sqlite": _TABLES, "postgresql": _TABLES}
"""Statements that drop the other things that migrations after 0008 add, by database."""
