"""Spreading shards over actors, by actors that follow a script."""

from collections.abc import Callable, Mapping

import pytest

from dataengine.errors import Cancelled, Conflict, JobFailed, ModelRefused
from pipelines.worker.spreading import TRIES, Event, assignments, spread

Play = Callable[[int, int | None], Event]
ABSENT = ModelRefused("there is no model here")


class Scripted:
    """Actors whose every call ends as `play(actor, shard)` says; all take one call a turn."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.queues: dict[int, list[int | None]] = {}
        self.sent: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.longest = 0

    def start(self) -> int:
        number = len(self.queues)
        self.queues[number] = [None]
        return number

    def send(self, actor: int, shard: int) -> None:
        self.sent.append((actor, shard))
        self.queues[actor].append(shard)
        self.longest = max(self.longest, len(self.queues[actor]))

    def wait(self, seconds: float) -> list[Event]:
        events = []
        for actor, queue in self.queues.items():
            if queue:
                event = self.play(actor, queue.pop(0))
                events.append(event)
                if event.lost:
                    queue.clear()
        assert events, "it waits for actors that do nothing"
        return events

    def end(self, actor: int) -> None:
        self.ended.append(actor)
        self.queues[actor].clear()


class Said(list[tuple[int, str]]):
    """What was reported."""

    def __call__(self, done: int, message: str, figures: Mapping[str, float]) -> None:
        self.append((done, message))


def works(actor: int, shard: int | None) -> Event:
    return Event(actor=actor, shard=shard, answer={} if shard is None else {"shard": shard})


EXPECTED = [{"shard": shard} for shard in range(10)]


def test_order_is_kept_and_no_actor_has_more_than_so_many_in_flight() -> None:
    actors, said = Scripted(works), Said()
    assert spread(actors, 10, 3, 2, said) == EXPECTED
    assert actors.longest == 2 and {actor for actor, _ in actors.sent} == {0, 1, 2}
    assert said[-1][0] == 10 and [done for done, _ in said] == sorted(done for done, _ in said)


def test_there_are_never_more_actors_than_shards() -> None:
    actors = Scripted(works)
    assert spread(actors, 2, 8, 2, Said()) == EXPECTED[:2]
    assert len(actors.queues) == 2


def test_the_next_shard_goes_where_the_fewest_are() -> None:
    given = list(assignments([7, 8, 9, 10], {0: [1, 2], 1: [3], 2: []}, 2, {}))
    assert given == [(2, 7), (1, 8), (2, 9)]
    assert list(assignments([7, 8], {0: []}, 2, {7: [0]})) == [(0, 8)]


def test_a_lost_actor_is_replaced_and_its_shards_run_again() -> None:
    def play(actor: int, shard: int | None) -> Event:
        return Event(actor=actor, lost="ActorDiedError") if (actor, shard) == (0, 4) else works(actor, shard)

    actors, said = Scripted(play), Said()
    assert spread(actors, 10, 2, 2, said) == EXPECTED
    assert len(actors.queues) == 3 and actors.ended == [0]
    again = [shard for _, shard in actors.sent if [shard for _, shard in actors.sent].count(shard) == 2]
    assert 4 in again and len(set(again)) <= 2, "only what was in flight there"
    assert any("ActorDiedError" in message for _, message in said)


def test_a_shard_that_loses_every_actor_ends_the_work() -> None:
    def play(actor: int, shard: int | None) -> Event:
        return Event(actor=actor, lost="ActorDiedError") if shard == 2 else works(actor, shard)

    actors = Scripted(play)
    with pytest.raises(JobFailed, match=f"{TRIES} actors were lost on shard 3"):
        spread(actors, 10, 2, 2, Said())
    assert [shard for _, shard in actors.sent].count(2) == TRIES


def test_actors_that_never_open_end_the_work() -> None:
    actors = Scripted(lambda actor, shard: Event(actor=actor, lost="ActorDiedError"))
    with pytest.raises(JobFailed, match="while opening"):
        spread(actors, 10, 1, 2, Said())
    assert len(actors.queues) == TRIES


def test_an_error_of_ours_comes_back_as_itself_and_is_not_tried_again() -> None:
    def play(actor: int, shard: int | None) -> Event:
        if shard == 3:
            return Event(actor=actor, shard=shard, error=Conflict("the cursor has moved"))
        return works(actor, shard)

    actors = Scripted(play)
    with pytest.raises(Conflict, match="the cursor has moved"):
        spread(actors, 10, 2, 2, Said())
    assert [shard for _, shard in actors.sent].count(3) == 1


@pytest.mark.parametrize("at", [None, 0])
def test_a_node_without_the_model_says_so_and_the_others_go_on(at: int | None) -> None:
    def play(actor: int, shard: int | None) -> Event:
        if actor == 0 and shard == at:
            return Event(actor=actor, shard=shard, error=ABSENT, unfit=True, message="node one")
        return works(actor, shard)

    actors, said = Scripted(play), Said()
    assert spread(actors, 10, 2, 2, said) == EXPECTED
    assert actors.ended == [0] and len(actors.queues) == 2, "it is not replaced"
    lines = {message for _, message in said if message}
    assert lines == {"node one is left out, the others go on: there is no model here"}


def test_if_no_node_has_the_model_its_error_comes_back() -> None:
    actors = Scripted(
        lambda actor, shard: Event(actor=actor, shard=shard, error=ABSENT, unfit=True, message="a node")
    )
    with pytest.raises(ModelRefused) as raised:
        spread(actors, 10, 3, 2, Said())
    assert raised.value is ABSENT


def test_an_answer_without_a_model_counts_only_if_no_node_has_it() -> None:
    def play(actor: int, shard: int | None) -> Event:
        absent = shard == 5 or (actor == 0 and shard is not None)
        if not absent:
            return works(actor, shard)
        return Event(actor=actor, shard=shard, answer={"failed": actor}, error=ABSENT, unfit=True)

    actors = Scripted(play)
    results = spread(actors, 10, 3, 2, Said())
    assert set(results[5]) == {"failed"}
    assert [*results[:5], *results[6:]] == [*EXPECTED[:5], *EXPECTED[6:]]
    assert sorted(actor for actor, shard in actors.sent if shard == 5) == [0, 1, 2], "each tried it once"


def test_a_stop_reaches_the_caller() -> None:
    def stop(done: int, message: str, figures: Mapping[str, float]) -> None:
        if done:
            raise Cancelled("cancelled on request")

    with pytest.raises(Cancelled):
        spread(Scripted(works), 10, 2, 2, stop)
