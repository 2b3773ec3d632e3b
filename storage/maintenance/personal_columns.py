"""Which columns can hold a person's name or an image's id, and what an erasure does with each.

`tests/storage/maintenance/test_personal_columns.py` fails for a column that is in neither table nor in
`IMPERSONAL`, so that a new column is not forgotten.
"""

from typing import Literal

Handling = Literal["delete", "goes along", "replace", "scrub", "scrub settings", "report"]
"""What happens to a value:

- `delete`: the row is deleted;
- `goes along`: the row is deleted with the one that it refers to;
- `replace`: the whole value becomes the pseudonym;
- `scrub`: the name is replaced wherever it stands as a word, in text and in JSON;
- `scrub settings`: as `scrub`, in work that has ended; a value that equals the name is replaced only under
  `PEOPLE`, because elsewhere it is a setting, for example a recipe that is called like a person;
- `report`: it is kept, because others depend on it, and named in the answer.
"""

_PEOPLE = """
    actor annotator annotators assignees author authors by comment created_by frozen_by note people person
    rater raters requested_by reviewer reviewers takers text user users
"""
PEOPLE = frozenset(_PEOPLE.split())
"""Keys of JSON objects whose values name people."""

PERSON: dict[str, Handling] = {
    # In the order of work: a review by the person is counted before their labels take others' reviews along.
    "reviews.reviewer": "delete",
    "labels.author": "delete",
    "reviews.author": "goes along",
    "votes.rater": "delete",
    "leases.annotator": "delete",
    "drafts.author": "delete",
    "receipts.author": "delete",
    "comments.author": "delete",
    "gold_scores.author": "delete",
    "queue_answers.author": "delete",
    "queue_takers.person": "delete",
    "users.name": "delete",
    "sessions.user": "goes along",
    "api_tokens.user": "goes along",
    "identities.user": "goes along",
    "guests.name": "goes along",
    "saved_views.owner": "delete",
    "gold_images.chosen_by": "replace",
    "jobs.requested_by": "replace",
    "studies.created_by": "replace",
    "pilots.created_by": "replace",
    "invitations.created_by": "replace",
    "benchmarks.created_by": "replace",
    "benchmarks.frozen_by": "replace",
    "benchmark_items.settled_by": "replace",
    "api_tokens.name": "scrub",
    "audit_events.actor": "scrub",
    "audit_events.subject": "scrub",
    "audit_events.details": "scrub",
    "benchmark_items.how": "scrub",
    "benchmarks.name": "scrub",
    "comments.text": "scrub",
    "job_files.text": "scrub",
    "labels.note": "scrub",
    "labels.regions": "scrub",
    "drafts.regions": "scrub",
    "queue_answers.reason": "scrub",
    "queue_items.reason": "scrub",
    "reviews.note": "scrub",
    "snapshot_items.author": "scrub",
    "studies.name": "scrub",
    "pilots.name": "scrub",
    "saved_views.name": "scrub",
    "saved_views.query": "scrub",
    "rounds.message": "scrub",
    "jobs.message": "scrub",
    "jobs.error": "scrub",
    "jobs.failure": "scrub",
    "jobs.args": "scrub settings",
    "jobs.result": "scrub settings",
    "rounds.recipe": "scrub settings",
    "rounds.results": "scrub settings",
    "images.prompt": "report",
    "images.settings": "report",
    "images.source": "report",
    "images.origin": "report",
    "images.licence": "report",
    "image_tags.tag": "report",
    "prompts.text": "report",
    "detectors.name": "report",
    "detectors.config": "report",
    "detectors.metrics": "report",
    "detectors.licence": "report",
    "generators.name": "report",
    "generators.location": "report",
    "generators.lora": "report",
    "generators.settings": "report",
    "generators.licence": "report",
    "treatments.config": "report",
    "treatments.result": "report",
    "endpoints.name": "report",
    "endpoints.location": "report",
    "endpoints.settings": "report",
    "webhook_deliveries.body": "scrub",
    "webhook_deliveries.error": "scrub",
    "benchmarks.settings": "report",
    "studies.design": "report",
    "settings.value": "report",
}
"""Columns that can hold a person's name, or text about a person."""

IMAGE: dict[str, Handling] = {
    "images.id": "delete",
    **dict.fromkeys(
        (
            "benchmark_items.image_id",
            "category_answers.image_id",
            "comments.image_id",
            "drafts.image_id",
            "gold_images.image_id",
            "gold_scores.image_id",
            "image_features.image_id",
            "image_tags.image_id",
            "labels.image_id",
            "leases.image_id",
            "map_places.image_id",
            "predictions.image_id",
            "pseudo_labels.image_id",
            "queue_answers.image_id",
            "queue_items.image_id",
            "queue_takers.image_id",
            "receipts.image_id",
            "reviews.image_id",
        ),
        "goes along",
    ),
    "studies.pairs": "scrub",
    "audit_events.subject": "scrub",
    "audit_events.details": "scrub",
    "benchmark_items.how": "scrub",
    "comments.text": "scrub",
    "images.settings": "scrub",
    "images.origin": "scrub",
    "images.group": "scrub",
    "job_files.text": "scrub",
    "jobs.args": "scrub settings",
    "jobs.error": "scrub",
    "jobs.failure": "scrub",
    "jobs.message": "scrub",
    "jobs.result": "scrub settings",
    "labels.note": "scrub",
    "labels.regions": "scrub",
    "drafts.regions": "scrub",
    "label_map_facts.sha256": "delete",
    "queue_answers.reason": "scrub",
    "queue_items.reason": "scrub",
    "reviews.note": "scrub",
    "rounds.message": "scrub",
    "rounds.recipe": "scrub settings",
    "rounds.results": "scrub settings",
    "webhook_deliveries.body": "scrub",
    "webhook_deliveries.error": "scrub",
    "snapshot_items.image_id": "report",
    "snapshot_items.image_sha256": "report",
    "snapshot_items.target": "report",
    "benchmark_items.target": "report",
    "detectors.metrics": "report",
    "treatments.result": "report",
}
"""Columns that can hold an image's id, or the name of a blob that only it or its labels used."""

# Drawn by chance or made of content, and references to such ids.
_IDS = """
    api_tokens.id api_tokens.token_hash
    benchmark_items.benchmark_id benchmarks.digest benchmarks.id category_answers.model comments.id
    detectors.checkpoint detectors.id detectors.parent detectors.round_id detectors.snapshot_id
    endpoints.id generators.id generators.parent generators.treatment_id guests.study_id
    hard_categories.round_id identities.issuer identities.subject image_features.detector_id
    image_features.vector images.generator_id
    map_places.map_id images.round_id images.sha256 images.thumbnail invitations.study_id
    invitations.token_hash job_files.job_id jobs.id labels.detector_id labels.label_map labels.round_id
    leases.id leases.round_id
    gold_images.label_map predictions.detector_id predictions.map_ref promotions.detector_id
    promotions.previous_id prompts.round_id pseudo_labels.detector_id pseudo_labels.map_ref
    pseudo_labels.round_id queue_answers.round_id queue_items.round_id queue_takers.round_id
    pilots.id receipts.digest receipts.key rounds.id saved_views.id
    sessions.csrf sessions.token_hash snapshot_items.snapshot_id
    snapshots.id snapshots.manifest snapshots.parent snapshots.round_id studies.after_id studies.before_id
    studies.id studies.round_id treatments.detector_id treatments.generator_id treatments.id
    treatments.round_id treatments.treated_id users.password_hash votes.study_id workspace.id
    queue_items.detector_id webhook_deliveries.endpoint_id webhook_deliveries.id
    webhook_deliveries.message_id webhook_deliveries.subject
    webhooks.endpoint_id webhooks.former_secret webhooks.secret device_seconds.job_id
    failed_attempts.key
"""
# Kinds, states, categories, class names, file names, stages, thresholds, devices.
_VOCABULARY = """
    api_tokens.roles audit_events.action benchmark_items.kind benchmark_items.stratum benchmarks.state
    category_answers.category detectors.domain detectors.operating_point detectors.role endpoints.kind
    hard_categories.category images.category images.media_type images.purpose images.split images.status
    job_files.name jobs.kind jobs.state label_classes.color label_classes.name labels.source leases.kind
    predictions.category prompts.category prompts.purpose queue_answers.kind queue_items.kind
    queue_takers.kind reviews.verdict rounds.stage rounds.state snapshot_items.category
    settings.name snapshot_items.kind snapshot_items.split snapshots.composition studies.state users.roles
    votes.choice votes.question webhook_deliveries.event webhook_deliveries.state webhooks.events
    device_seconds.device
"""
_MACHINES = (
    "jobs.worker sessions.client workers.devices workers.host workers.id workers.job_id workers.memory"
)
# Unfinished label maps are pixels, and are deleted with their author and with their image.
_PIXELS = "drafts.label_map"
IMPERSONAL = frozenset(f"{_IDS} {_VOCABULARY} {_MACHINES} {_PIXELS}".split())
"""Columns that hold neither."""
