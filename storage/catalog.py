"""The catalog: one unit of work over all stored records.

    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()

Leaving the block without `commit()` rolls everything back. The interface is records; SQL stays in `storage`.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine

from storage.engine import connect, connect_for_reading, turn_to_write
from storage.repositories.accounts import (
    ApiTokens,
    Audit,
    Endpoints,
    FailedAttempts,
    Identities,
    Sessions,
    Users,
)
from storage.repositories.annotation import Comments, Drafts, Gold, IdempotencyKeys
from storage.repositories.assignees import Assignees
from storage.repositories.curation import Pilots, SavedViews, Tags
from storage.repositories.datasets import Benchmarks, Snapshots
from storage.repositories.images import (
    Features,
    HardCategories,
    Images,
    MapPlaces,
    Predictions,
    Prompts,
    PseudoLabels,
)
from storage.repositories.labels import Classes, LabelMapStatistics, Labels, Reviews
from storage.repositories.models import Detectors, Generators, Treatments
from storage.repositories.queue import Queue
from storage.repositories.settings import Settings
from storage.repositories.studies import Guests, Invitations, Studies, Votes
from storage.repositories.webhooks import Deliveries, Webhooks
from storage.repositories.work import JobFiles, Jobs, Rounds, Workers


class Catalog:
    """A unit of work. Not thread-safe; open one where it is needed and keep it short.

    A writing one takes SQLite's write lock at once, so that the data it reads cannot change before it writes.
    With `read_only` it takes none, reads one consistent snapshot, and cannot write. Raises
    `WorkspaceUnusable` when the database is read-only, `Unavailable` when it is full, locked for too long, or
    unreachable.
    """

    images: Images
    tags: Tags
    saved_views: SavedViews
    pilots: Pilots
    prompts: Prompts
    predictions: Predictions
    pseudo_labels: PseudoLabels
    hard: HardCategories
    queue: Queue
    labels: Labels
    reviews: Reviews
    drafts: Drafts
    idempotency_keys: IdempotencyKeys
    comments: Comments
    gold: Gold
    label_map_statistics: LabelMapStatistics
    features: Features
    map_places: MapPlaces
    assignees: Assignees
    benchmarks: Benchmarks
    snapshots: Snapshots
    detectors: Detectors
    generators: Generators
    treatments: Treatments
    rounds: Rounds
    jobs: Jobs
    job_files: JobFiles
    workers: Workers
    studies: Studies
    votes: Votes
    invitations: Invitations
    guests: Guests
    users: Users
    sessions: Sessions
    api_tokens: ApiTokens
    identities: Identities
    failed_attempts: FailedAttempts
    audit: Audit
    endpoints: Endpoints
    webhooks: Webhooks
    deliveries: Deliveries
    classes: Classes
    settings: Settings
    connection: Connection
    """The open transaction, for `storage` itself."""

    def __init__(self, engine: Engine, read_only: bool = False) -> None:
        self._engine = engine
        self._read_only = read_only

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if not self._read_only:
                opened.enter_context(turn_to_write(self._engine))
            reading = self._read_only
            self.connection = connect_for_reading(self._engine) if reading else connect(self._engine)
            self.connection.begin()
            self._turn = opened.pop_all()
        return self

    def __getattr__(self, name: str) -> Any:
        # A unit of work uses few of its repositories, so each is created on first access.
        repository = Catalog.__annotations__.get(name)
        if repository is None or name == "connection":
            raise AttributeError(f"a catalog has no {name!r}, or is not open")
        instance = repository(self.connection)
        setattr(self, name, instance)
        return instance

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            self.connection.close()

    def commit(self) -> None:
        """Commit the changes so far and begin a new transaction."""
        with self._turn:
            self.connection.commit()

    def rollback(self) -> None:
        """Roll back everything since the last commit."""
        with self._turn:
            self.connection.rollback()
