"""What migrations have added lately, for tests that take a catalog back to an earlier one."""

AFTER_0011 = {
    "label_classes": ("color", "place", "retired"),
    "sessions": ("client",),
    "users": ("must_change", "seen"),
}
"""Columns that migrations after 0011 add."""
LATER_COLUMNS = {
    "detectors": ("operating_point", "removed", "domain"),
    "generators": ("removed",),
    "queue_items": ("detector_id",),
    **AFTER_0011,
}
"""Columns that migrations after 0008 add."""
LATER_TABLES = ("settings",)
"""Tables that they add."""
