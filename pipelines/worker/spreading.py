"""Spreads shards over actors, whatever engine runs these: at most so many in flight on each, results gathered
as they come, a lost actor replaced and its shards run again.

Input: actors, and how many shards there are. Output: the shards' results, in order. A shard's work is
idempotent, so it may run twice.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dataengine.errors import ClinicError, JobFailed
from pipelines.runtime.context import Result

TRIES = 4
"""Losses of actors on the same shard, or before any of them was open, until the work fails."""
POLL_SECONDS = 1.0
"""Longest time between two reports, and so between a stop that was requested and its effect."""

Say = Callable[[int, str, Mapping[str, float]], None]
"""Reports (shards done, a message, figures); raises to stop the work."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What became of one call to an actor."""

    actor: int
    shard: int | None = None
    """Position of the shard; None for the opening."""
    answer: Result | None = None
    """The shard's result; an empty one for the opening, None after an error that it did not handle."""
    error: ClinicError | None = None
    """What it raised."""
    unfit: bool = False
    """Whether the error is of opening the workspace or a model there: other actors may have them."""
    lost: str = ""
    """Why the actor is gone; "" while it lives. Its other calls have no event any more."""
    message: str = ""
    """Where the actor is, after an error; the last progress message of a shard otherwise."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The last figures that the shard reported."""


class Actors(Protocol):
    """Processes that run shards, one at a time each, in the order in which they were sent."""

    def start(self) -> int:
        """Start one and let it open the workspace and the models; its number."""
        ...

    def send(self, actor: int, shard: int) -> None:
        """Queue the shard of that position on an opened actor."""
        ...

    def wait(self, seconds: float) -> Sequence[Event]:
        """What has ended since the last call; empty when nothing does within so many seconds."""
        ...

    def end(self, actor: int) -> None:
        """End one, with all that it was sent."""
        ...


def assignments(
    waiting: Sequence[int],
    in_flight: Mapping[int, Sequence[int]],
    ahead: int,
    tried: Mapping[int, Collection[int]],
) -> Iterator[tuple[int, int]]:
    """(actor, shard) for the next waiting shards: always the actor with the fewest in flight, never more than
    `ahead` on one, and none that has `tried` the shard in vain."""
    load = {actor: len(shards) for actor, shards in in_flight.items()}
    for shard in waiting:
        free = [actor for actor in load if load[actor] < ahead]
        if not free:
            return
        fitting = [actor for actor in free if actor not in tried.get(shard, ())]
        if fitting:
            actor = min(fitting, key=load.__getitem__)
            load[actor] += 1
            yield actor, shard


def spread(actors: Actors, count: int, wanted: int, ahead: int, say: Say) -> list[Result]:
    """The results of `count` shards on `wanted` actors, with at most `ahead` in flight on each.

    An error of a shard comes back as itself, and ends the work. An actor that cannot open the workspace or a
    model is ended, and the others go on; if the shard has handled that by itself, as generating does, it runs
    on the other actors first, and its answer counts when none of them can. Raises the error of the last actor
    that cannot open, and `JobFailed` when actors are lost `TRIES` times on the same shard or before they are
    open.
    """
    pool = _Pool(actors, count, ahead, say)
    for _ in range(min(wanted, count)):
        pool.start()
    while len(pool.results) < count:
        pool.assign()
        for event in actors.wait(POLL_SECONDS) if pool.calls else ():
            pool.take(event)
        say(len(pool.results), pool.message, pool.figures)
    return [pool.results[shard] for shard in range(count)]


class _Pool:
    """Which shards wait, which are in flight and where, and what came back."""

    def __init__(self, actors: Actors, count: int, ahead: int, say: Say) -> None:
        self.actors, self.ahead, self.say = actors, ahead, say
        self.waiting = deque(range(count))
        self.opening: set[int] = set()
        self.in_flight: dict[int, list[int]] = {}
        self.results: dict[int, Result] = {}
        self.losses: Counter[int | None] = Counter()
        self.tried: dict[int, dict[int, Result]] = {}
        """By shard and actor: answers without a model that could not be opened there."""
        self.message = ""
        self.figures: Mapping[str, float] = {}

    @property
    def calls(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self.opening) or any(self.in_flight.values())

    def start(self) -> None:
        self.opening.add(self.actors.start())

    def assign(self) -> None:
        for shard, answers in self.tried.items():
            if shard in self.waiting and not self.opening and self.in_flight.keys() <= answers.keys():
                self.waiting.remove(shard)
                self.results[shard] = next(iter(answers.values()))
        for actor, shard in list(assignments(self.waiting, self.in_flight, self.ahead, self.tried)):
            self.waiting.remove(shard)
            self.in_flight[actor].append(shard)
            self.actors.send(actor, shard)

    def take(self, event: Event) -> None:
        if event.actor not in self.opening and event.actor not in self.in_flight:
            return
        if event.lost:
            self._replace(event)
        elif event.unfit and event.shard is not None and event.answer is not None:
            self.in_flight[event.actor].remove(event.shard)
            self.waiting.append(event.shard)
            self.tried.setdefault(event.shard, {})[event.actor] = event.answer
            self._tell(f"{event.message} could not open a model, others are tried: {event.error}")
        elif event.unfit:
            self._leave_out(event)
        elif event.error:
            raise event.error
        elif event.shard is None:
            self.opening.discard(event.actor)
            self.in_flight[event.actor] = []
            self.losses[None] = 0
        else:
            assert event.answer is not None
            self.in_flight[event.actor].remove(event.shard)
            self.results[event.shard] = event.answer
            self.message, self.figures = event.message, event.figures

    def _replace(self, event: Event) -> None:
        # All that was in flight is counted: the answer of a shard that had ended may be lost as well, so the
        # first one is not always the one that ran.
        suspects: list[int | None] = [*self._take_back(event.actor)]
        for suspect in suspects or [None] * (event.actor in self.opening):
            self.losses[suspect] += 1
            if self.losses[suspect] >= TRIES:
                what = "while opening the workspace" if suspect is None else f"on shard {suspect + 1}"
                raise JobFailed(
                    f"{TRIES} actors were lost {what}, the last since {event.lost}; look at Ray's logs "
                    "and the node's memory, then resume"
                )
        self.opening.discard(event.actor)
        self.actors.end(event.actor)
        self.start()
        self._tell(f"an actor was lost ({event.lost}) and is replaced")

    def _leave_out(self, event: Event) -> None:
        self._take_back(event.actor)
        self.opening.discard(event.actor)
        self.actors.end(event.actor)
        assert event.error is not None
        if not self.opening and not self.in_flight:
            raise event.error
        self._tell(f"{event.message} is left out, the others go on: {event.error}")

    def _take_back(self, actor: int) -> list[int]:
        """Let the shards that are in flight on an actor wait again."""
        shards = self.in_flight.pop(actor, [])
        self.waiting.extendleft(reversed(shards))
        return shards

    def _tell(self, message: str) -> None:
        self.message = " ".join(message.split())
        self.say(len(self.results), self.message, self.figures)
