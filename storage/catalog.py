"""The catalog: one unit of work over everything that the clinic remembers.

    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        catalog.commit()

Leaving the block without `commit()` rolls everything back. Records go in and come out; SQL
stays in `storage`.
"""

from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine

from storage.engine import connect_for_reading
from storage.repositories.annotating import Comments, Drafts, Gold, Receipts
from storage.repositories.benchmarks import Benchmarks
from storage.repositories.curation import Features, LabelMapFacts, Takers
from storage.repositories.images import HardCategories, Images, Predictions, Prompts, PseudoLabels
from storage.repositories.labelling import Labels, Queue, Reviews
from storage.repositories.models import Detectors, Generators, Snapshots, Treatments
from storage.repositories.people import (
    Audit,
    Classes,
    Endpoints,
    Guests,
    Invitations,
    Sessions,
    Studies,
    Users,
    Votes,
)
from storage.repositories.work import Jobs, Rounds, Workers


class Catalog:
    """A unit of work. Not shared between threads; open one where it is needed and keep it short.

    A writing one takes SQLite's write lock at once, so that what it reads cannot change before it writes.
    With `read_only` it takes none, sees one consistent state, and cannot write.
    Raises `WorkspaceUnusable` when the database is full, read-only, locked for too long, or away.
    """

    images: Images
    prompts: Prompts
    predictions: Predictions
    pseudo_labels: PseudoLabels
    hard: HardCategories
    queue: Queue
    labels: Labels
    reviews: Reviews
    drafts: Drafts
    receipts: Receipts
    comments: Comments
    gold: Gold
    facts: LabelMapFacts
    features: Features
    takers: Takers
    benchmarks: Benchmarks
    snapshots: Snapshots
    detectors: Detectors
    generators: Generators
    treatments: Treatments
    rounds: Rounds
    jobs: Jobs
    workers: Workers
    studies: Studies
    votes: Votes
    invitations: Invitations
    guests: Guests
    users: Users
    sessions: Sessions
    audit: Audit
    endpoints: Endpoints
    classes: Classes
    connection: Connection
    """The open transaction, for `storage` itself."""

    def __init__(self, engine: Engine, read_only: bool = False) -> None:
        self._engine = engine
        self._read_only = read_only

    def __enter__(self) -> Self:
        self.connection = connect_for_reading(self._engine) if self._read_only else self._engine.connect()
        self.connection.begin()
        for name, repository in Catalog.__annotations__.items():
            if name != "connection":
                setattr(self, name, repository(self.connection))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def commit(self) -> None:
        """Keep everything done so far; what follows is a new transaction."""
        self.connection.commit()

    def rollback(self) -> None:
        """Forget everything since the last commit."""
        self.connection.rollback()
