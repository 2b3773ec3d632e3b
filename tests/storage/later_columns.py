"""What migrations have added lately, for tests that take a catalog back to an earlier one."""

AFTER_0011 = {
    "label_classes": ("color", "place", "retired"),
    "sessions": ("client",),
    "users": ("must_change", "seen"),
    "queue_items": ("queued",),
    "workers": ("memory",),
    "labels": ("regions",),
    "drafts": ("regions",),
}
"""Columns that migrations after 0011 add."""
LATER_COLUMNS = {
    "detectors": ("operating_point", "removed", "domain"),
    "generators": ("removed",),
    **AFTER_0011,
    "queue_items": ("detector_id", "queued"),
}
"""Columns that migrations after 0008 add."""

_NEW = (
    "settings",
    "map_places",
    "image_tags",
    "saved_views",
    "pilots",
    "api_tokens",
    "identities",
    "webhook_deliveries",
    "webhooks",
    "device_seconds",
    "failed_attempts",
)
_INDEXES = (
    *("queue_items_done_queued", "queue_answers_created", "labels_created", "reviews_created"),
    *("jobs_finished", "jobs_kind_finished"),
)
_TABLES = (
    *(f"DROP TABLE {name}" for name in _NEW),
    *(f"DROP INDEX ix_{name}" for name in _INDEXES),
)
LATER_OBJECTS = {
    "sqlite": (
        *_TABLES,
        *(f"DROP TRIGGER prompt_search_{event}" for event in ("insert", "update", "delete")),
        "DROP TABLE prompt_search",
        "DROP VIEW prompt_search_texts",
        "DROP TABLE prompt_search_ids",
    ),
    "postgresql": (
        *_TABLES,
        "DROP TRIGGER prompt_search ON images",
        "DROP FUNCTION prompt_search_keep",
        "DROP TABLE prompt_search",
        "DROP FUNCTION prompt_search_words",
    ),
}
"""Statements that drop the other things that migrations after 0008 add, by database; before the columns,
some of which their indexes hold."""
