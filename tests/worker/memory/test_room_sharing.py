"""Several gateways on one worker over time: none starves, and room that one leaves idle goes to the others."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.service.connection import share

ROWS = st.integers(1, 40)
GATEWAYS = st.integers(1, 6)


@dataclass
class Room:
    """A worker with rows and a place to wait, and gateways that submit as far as they may."""

    total: int
    waiting: Counter[int] = field(default_factory=Counter[int])
    """What each gateway has in its own queue."""
    here: deque[int] = field(default_factory=deque[int])
    """The gateways whose sequences are at the worker, oldest first; those in front run."""
    gateways: int = 1

    def demand(self, gateway: int) -> int:
        return self.waiting[gateway] + self.here.count(gateway)

    @property
    def shares(self) -> dict[int, int]:
        return share(self.total, {gateway: self.demand(gateway) for gateway in range(self.gateways)})

    def submit(self) -> None:
        """Everyone submits what its share lets it."""
        for gateway, limit in self.shares.items():
            count = min(self.waiting[gateway], max(0, limit - self.here.count(gateway)))
            self.waiting[gateway] -= count
            self.here.extend([gateway] * count)

    def finish(self) -> int:
        """One of those that run ends: which gateway's."""
        return self.here.popleft()


@given(ROWS, GATEWAYS, st.data())
def test_whoever_waits_is_served_before_each_other_has_had_the_room_twice(
    total: int, gateways: int, data: st.DataObject
) -> None:
    room = Room(total, gateways=gateways)
    greedy = data.draw(st.lists(st.integers(0, gateways - 1), max_size=gateways, unique=True))
    for gateway in greedy:
        room.waiting[gateway] = 10_000
        room.submit()
    late = data.draw(st.integers(0, gateways - 1).filter(lambda each: each not in greedy or gateways == 1))
    room.waiting[late] += 1
    room.submit()

    ahead = len(room.here)
    for _ in range(ahead):
        if room.finish() == late:
            break
        room.submit()
    else:
        raise AssertionError("the late one has starved")
    assert ahead <= total * (len(greedy) + 1) + gateways


@given(ROWS, GATEWAYS, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=20))
def test_room_that_gateways_leave_idle_goes_to_the_one_that_wants_it(
    total: int, gateways: int, arrivals: list[tuple[int, int]]
) -> None:
    room = Room(total, gateways=gateways)
    for gateway, count in arrivals:
        room.waiting[gateway % gateways] += count
        room.submit()
    for gateway in range(1, gateways):
        room.waiting[gateway] = 0
    room.waiting[0] = 10_000
    while any(room.demand(gateway) for gateway in range(1, gateways)):
        room.submit()
        room.finish()

    assert room.shares[0] == max(1, total - (gateways - 1))
    room.submit()
    assert room.here.count(0) >= room.shares[0]


@given(ROWS, st.integers(2, 6), st.integers(1, 300))
def test_gateways_that_want_more_than_there_is_are_served_alike(total: int, gateways: int, finishes: int) -> None:
    room = Room(total, gateways=gateways)
    for gateway in range(gateways):
        room.waiting[gateway] = 10_000
    served = Counter[int]()
    room.submit()
    for _ in range(finishes):
        served[room.finish()] += 1
        room.submit()

    counts = [served[gateway] for gateway in range(gateways)]
    rounds = 1 + finishes / max(total, gateways)
    assert max(counts) - min(counts) <= max(2, -(-total // gateways)) + rounds


@given(ROWS, GATEWAYS, st.data())
def test_a_gateway_that_wakes_has_its_fair_share_at_once(total: int, gateways: int, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, 100), min_size=gateways, max_size=gateways))
    room = Room(total, gateways=gateways)
    room.waiting.update(dict(enumerate(wanted)))
    fair = total // gateways
    assert all(room.shares[gateway] >= max(1, min(wanted[gateway], fair)) for gateway in range(gateways))
