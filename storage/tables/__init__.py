"""The catalog's tables, one module per noun, on one metadata object."""

from storage.tables.accounts import (
    api_tokens,
    audit_events,
    endpoints,
    failed_attempts,
    identities,
    sessions,
    users,
)
from storage.tables.annotation import (
    comments,
    drafts,
    gold_images,
    gold_scores,
    receipts,
)
from storage.tables.columns import Located, LocatedJson, Tuples, metadata
from storage.tables.curation import image_tags, pilots, saved_views
from storage.tables.datasets import benchmark_items, benchmarks, snapshot_items, snapshots
from storage.tables.images import (
    category_answers,
    hard_categories,
    image_features,
    images,
    map_places,
    predictions,
    prompts,
    pseudo_labels,
)
from storage.tables.labels import label_classes, label_map_facts, labels, reviews
from storage.tables.models import detectors, generators, promotions, treatments
from storage.tables.queue import leases, queue_answers, queue_items, queue_takers
from storage.tables.studies import guests, invitations, studies, votes
from storage.tables.webhooks import webhook_deliveries, webhooks
from storage.tables.work import device_seconds, job_files, jobs, rounds, workers
from storage.tables.workspace import settings, workspace

__all__ = [
    "Located",
    "LocatedJson",
    "Tuples",
    "api_tokens",
    "audit_events",
    "benchmark_items",
    "benchmarks",
    "category_answers",
    "comments",
    "detectors",
    "device_seconds",
    "drafts",
    "endpoints",
    "failed_attempts",
    "generators",
    "gold_images",
    "gold_scores",
    "guests",
    "hard_categories",
    "identities",
    "image_features",
    "image_tags",
    "images",
    "invitations",
    "job_files",
    "jobs",
    "label_classes",
    "label_map_facts",
    "labels",
    "leases",
    "map_places",
    "metadata",
    "pilots",
    "predictions",
    "promotions",
    "prompts",
    "pseudo_labels",
    "queue_answers",
    "queue_items",
    "queue_takers",
    "receipts",
    "reviews",
    "rounds",
    "saved_views",
    "sessions",
    "settings",
    "snapshot_items",
    "snapshots",
    "studies",
    "treatments",
    "users",
    "votes",
    "webhook_deliveries",
    "webhooks",
    "workers",
    "workspace",
]
