"""Who is sent next, and where: nobody overtakes without bound, and everything is sent in the end."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Generation
from gateway.scheduling.placement import WorkerLoad
from gateway.scheduling.scheduler import Scheduler
from tests.gateway.generations import generation


class Workers:
    """Workers as a scheduler sees them; a test ends what runs there."""

    def __init__(self, *limits: int) -> None:
        self.scheduler = Scheduler()
        self.limits = {f"worker-{number}": limit for number, limit in enumerate(limits)}
        self.running: dict[str, list[Generation]] = {name: [] for name in self.limits}
        self.sent: list[Generation] = []

    def loads(self) -> list[WorkerLoad]:
        return [
            WorkerLoad(name, sum(one.row_count for one in self.running[name]), limit, served=0)
            for name, limit in self.limits.items()
        ]

    def arrive(self, *generations: Generation) -> None:
        for one in generations:
            self.scheduler.queue.append(one)
        self.dispatch()

    def dispatch(self) -> None:
        while assignment := self.scheduler.next(self.loads(), 0.0):
            self.running[assignment.worker].append(assignment.generation)
            assignment.generation.submit(assignment.worker, 0.0)
            self.sent.append(assignment.generation)

    def end(self, name: str) -> None:
        """What has run there longest comes to its end."""
        self.running[name].pop(0)
        self.dispatch()


def small(count: int) -> list[Generation]:
    return [generation() for _ in range(count)]


def large(rows: int = 4) -> Generation:
    return generation(candidate_count=rows)


@given(st.lists(st.integers(1, 4), max_size=12))
def test_a_single_worker_gets_everything_in_the_order_of_arrival(sizes: list[int]) -> None:
    workers, arriving = Workers(4), [large(rows) for rows in sizes]
    workers.arrive(*arriving)
    while workers.running["worker-0"]:
        workers.end("worker-0")

    assert workers.sent == arriving


def test_small_ones_go_on_elsewhere_while_a_worker_makes_room_for_a_large_one() -> None:
    workers, big, behind = Workers(4, 4), large(), small(3)
    workers.arrive(*small(8))
    workers.arrive(big, *behind)
    for _ in range(3):
        workers.end("worker-0")
        workers.end("worker-1")

    # The one that comes closest to four free rows is kept free; all that is small went to the other.
    assert set(behind) <= {*workers.running["worker-0"], *workers.running["worker-1"]}
    assert big not in workers.sent
    kept = min(workers.running, key=lambda name: len(workers.running[name]))
    workers.end(kept)
    assert workers.running[kept] == [big]


@given(st.lists(st.sampled_from(["worker-0", "worker-1", "worker-2"]), min_size=60, max_size=60))
def test_a_flood_of_small_ones_does_not_starve_a_large_one(ends: list[str]) -> None:
    workers, big = Workers(4, 4, 4), large()
    workers.arrive(*small(12))
    workers.arrive(big)
    for name in [*ends, *sorted(workers.limits) * 4]:
        workers.arrive(*small(1))
        if big in workers.sent:
            break
        if workers.running[name]:
            workers.end(name)

    assert big in workers.sent


def test_a_large_one_goes_to_whichever_worker_has_the_room_first() -> None:
    workers, big = Workers(4, 4), large()
    workers.arrive(*small(8))
    workers.arrive(big)
    workers.end("worker-0")
    workers.limits["worker-1"] = 8

    workers.dispatch()

    assert big in workers.running["worker-1"]


def test_one_larger_than_the_share_of_a_worker_is_sent_when_the_whole_share_is_free() -> None:
    workers, first, big = Workers(2), small(1), large()
    workers.arrive(*first, big)
    assert workers.sent == first

    workers.end("worker-0")

    assert workers.sent == [*first, big]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=15))
def test_what_waits_is_counted_in_rows_until_it_is_sent_or_leaves(arrivals: list[tuple[int, bool]]) -> None:
    workers = Workers(4)
    for rows, leaves in arrivals:
        one = large(rows)
        workers.arrive(one)
        if leaves:
            workers.scheduler.remove(one)
            workers.dispatch()
        assert workers.scheduler.work.row_count == sum(one.row_count for one in workers.scheduler)
        assert len(workers.scheduler) == len(list(workers.scheduler))
